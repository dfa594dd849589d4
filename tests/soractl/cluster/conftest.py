import os
from pathlib import Path

import pytest

from soractl.remote.nodes import this_machine

STAND_IN = Path(__file__).parent.parent.parent / "cluster" / "bin"


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder that says what nvidia-smi prints on this machine."""
    monkeypatch.setenv("PATH", f"{STAND_IN}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_GPUS", str(tmp_path))
    folder = tmp_path / this_machine().name
    folder.mkdir()
    return folder
