import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from trainer import packages

TRAIN = Path(packages.__file__).parent / "train.py"


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


@pytest.mark.slow
def test_the_trainer_says_how_colossalai_is_installed(tmp_path):
    """It and its metadata are hidden, as if it were not installed."""
    hide = (
        "import sys\n"
        "from importlib import metadata\n"
        "sys.modules['colossalai'] = None\n"
        "known = metadata.version\n"
        "def version(name):\n"
        "    if name == 'colossalai':\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return known(name)\n"
        "metadata.version = version\n"
    )
    (tmp_path / "sitecustomize.py").write_text(hide)
    done = subprocess.run(
        [sys.executable, TRAIN, tmp_path / "run"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: colossalai==0.5.0 is not installed: pip install --no-deps colossalai==0.5.0\n"
    )
