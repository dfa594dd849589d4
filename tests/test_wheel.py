import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import soractl
from trainer.packages import COLOSSALAI

REPOSITORY = Path(__file__).parent.parent
STAGES = sorted(path.stem for path in (REPOSITORY / "configs").glob("*.toml"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, REPOSITORY]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [file] = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder for PYTHONPATH that holds what the wheel does, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def run(installed, tmp_path):
    """The command in an empty folder, as the wheel has it."""

    def command(*arguments):
        environ = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
        for name in ("SORACTL_HOSTFILE", "SLURM_JOB_NODELIST"):
            environ.pop(name, None)
        done = subprocess.run(
            [sys.executable, "-m", "soractl.cli", *arguments],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return command


def test_the_wheel_carries_all_files_of_the_packages_the_stages_and_the_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {"trainer/train.py"}
    for package in ("soractl", "trainer"):
        for file in (REPOSITORY / package).rglob("*"):
            if file.suffix in (".py", ".sh", ".html"):
                expected.add(str(file.relative_to(REPOSITORY)))
    for file in (REPOSITORY / "configs").rglob("*.toml"):
        expected.add(f"trainer/{file.relative_to(REPOSITORY)}")
    folder = f"soractl-{soractl.__version__}.dist-info"
    expected |= {f"{folder}/licenses/{name}" for name in ("LICENSE", "NOTICE")}
    assert expected - names == set()


def test_in_an_empty_folder_the_shipped_stages_are_there(run, installed):
    assert run("--version") == f"soractl {soractl.__version__}\n"
    rows = [line.split() for line in run("config", "list").splitlines()[1:]]
    assert rows == [[name, f"{installed}/trainer/configs/{name}.toml"] for name in STAGES]
    assert "buckets.keep.240p" in run("config", "show", "stage4")
    assert "masks.random" in run("config", "diff", "stage1", "stage4")
    assert f"{installed}/trainer/train.py" in run("launch", "smoke", "--dry-run", "--force")


def test_plain_pip_and_make_take_colossalai_by_the_same_line():
    line = f"--no-deps {COLOSSALAI}"
    for page in ("Makefile", "pyproject.toml", "README.md"):
        assert line in (REPOSITORY / page).read_text(), page
