import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from trainer import packages

ROOT = Path(packages.__file__).parent
TRAIN = ROOT / "train.py"


def test_what_is_installed_here_fits():
    assert "torch==2.13.0" in packages.needs()
    assert packages.fault(packages.needs()) is None


@pytest.mark.parametrize(
    ("needed", "sentence"),
    [
        (
            "no-such-package>=1",
            "no-such-package>=1 is not installed: pip install 'soractl[train]'",
        ),
        (
            "pytest<1",
            f"pytest<1 is needed, but pytest {metadata.version('pytest')} is installed: "
            "pip install 'soractl[train]'",
        ),
    ],
)
def test_a_missing_or_too_new_package_is_one_sentence_with_the_command(needed, sentence):
    assert packages.fault(["pytest", needed]) == sentence


def programs():
    """Arguments of Python that start each program of the trainer that needs torch."""
    for file in sorted(ROOT.rglob("*.py")):
        if '__name__ == "__main__"' in file.read_text():
            name = ".".join(file.relative_to(ROOT.parent).with_suffix("").parts)
            if name != "trainer.upload":  # it needs W&B alone
                yield [str(file)] if name == "trainer.train" else ["-m", name]


@pytest.fixture
def run(tmp_path):
    """A run's folder with one attempt, in which nothing stands."""
    (tmp_path / "001-smoke/attempts/1").mkdir(parents=True)
    return tmp_path / "001-smoke"


def run_without(packages, program, folder):
    """Run a program where packages and their metadata are hidden, as if they were not installed."""
    hide = (
        "import sys\n"
        "from importlib import metadata\n"
        f"hidden = {packages!r}\n"
        "sys.modules.update(dict.fromkeys(hidden))\n"
        "known = metadata.version\n"
        "def version(name):\n"
        "    if name in hidden:\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return known(name)\n"
        "metadata.version = version\n"
    )
    (folder / "sitecustomize.py").write_text(hide)
    return subprocess.run(
        [sys.executable, *program],
        input="{}",
        env={**os.environ, "RANK": "0", "PYTHONPATH": f"{folder}:{ROOT.parent}"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("program", list(programs()), ids=lambda program: program[-1])
def test_every_program_says_in_one_sentence_how_torch_is_installed(tmp_path, run, program):
    words = ["plan"] if program[-1] == "trainer.encode" else [str(run)]
    done = run_without(["torch", "av"], [*program, *words], tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: (torch|av)\S+ is not installed: pip install 'soractl\[train\]'\n", done.stderr
    )


@pytest.mark.slow
def test_the_trainer_says_how_colossalai_is_installed(tmp_path, run):
    done = run_without(["colossalai"], [str(TRAIN), str(run)], tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "error: colossalai==0.5.0 is not installed: pip install --no-deps colossalai==0.5.0\n"
    )
