import os
from pathlib import Path

import pytest

from soractl.cluster import gpu_columns
from soractl.remote.nodes import this_machine

STAND_IN = Path(__file__).parent.parent.parent / "cluster" / "bin"
# of tests/recorded/nvidia-smi, whose lines have no header
RECORDED_FIELDS = {
    *("utilization.gpu", "memory.used", "memory.total", "power.draw", "temperature.gpu")
}


@pytest.fixture(autouse=True)
def recorded_numbers(monkeypatch):
    """The numbers that recorded answers have: a column that comes later changes no old test."""
    numbers = (number for number in gpu_columns.NUMBERS if number.query in RECORDED_FIELDS)
    monkeypatch.setattr(gpu_columns, "NUMBERS", tuple(numbers))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder that says what nvidia-smi prints on this machine."""
    monkeypatch.setenv("PATH", f"{STAND_IN}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_GPUS", str(tmp_path))
    folder = tmp_path / this_machine().name
    folder.mkdir()
    return folder
