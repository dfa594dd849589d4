import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.data import smoke_clips


@pytest.fixture(scope="session")
def clips_csv(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    smoke_clips.make(folder)
    return folder / "clips.csv"


@pytest.fixture
def soractl(tmp_path, clips_csv):
    """Run the real command in an empty folder, with the real smoke clips."""

    def run(*arguments, code=0):
        command = [Path(sys.executable).with_name("soractl"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    yield run
    for pid in processes_of(tmp_path):
        os.kill(pid, signal.SIGKILL)


def processes_of(folder):
    """Every process of a run below `folder`, by the run's mark in its environment."""
    mark = f"SORACTL_RUN_ID={folder}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found
