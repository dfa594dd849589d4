import os
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from soractl.cluster import nvml
from soractl.cluster.gpu_columns import NUMBERS
from soractl.cluster.gpus import read_gpus
from soractl.errors import Fault, FaultKind
from soractl.remote.nodes import this_machine
from tests.soractl.cluster.test_gpus import read_here


def test_a_process_of_this_machine_that_is_ending_has_no_name():
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert nvml._first_line(Path(f"/proc/{ended.pid}/cmdline"), b"") is None
    ended.wait()


class OldLibrary:
    """pynvml on a driver that does not know the second form of the memory's numbers."""

    class NVMLError_FunctionNotFound(Exception): ...

    class NVMLError_ArgumentVersionMismatch(Exception): ...

    nvmlMemory_v2 = 2

    def nvmlDeviceGetMemoryInfo(self, gpu, version=None):
        if version:
            raise self.NVMLError_FunctionNotFound
        return SimpleNamespace(used=7, total=9)


def test_an_older_library_still_knows_the_memory():
    memory = (number for number in NUMBERS if number.query.startswith("memory."))
    found = {number.key: number.nvml(OldLibrary(), None) for number in memory}
    assert found == {"mem_used_bytes": 7, "mem_total_bytes": 9}


def test_this_machine_is_asked_through_nvml():
    [row] = read_gpus([this_machine()], lambda *request: pytest.fail("asked"), deadline_s=30)
    assert row.fault is None
    if not row.gpus:
        assert row.notes[0].startswith("no NVIDIA driver: ")


def test_a_driver_that_is_stuck_costs_the_deadline(monkeypatch):
    monkeypatch.setattr(nvml, "read", threading.Event().wait)
    [row] = read_gpus([this_machine()], lambda *request: pytest.fail("asked"), deadline_s=0.1)
    assert row.fault == Fault(FaultKind.DEADLINE, "no end within 0.1 s")


@pytest.mark.gpu
def test_nvml_and_nvidia_smi_agree():
    [by_nvml] = read_gpus([this_machine()], lambda *request: pytest.fail("asked"), deadline_s=30)
    by_nvidia_smi = read_here(deadline_s=30)

    def fixed(row):
        return [(gpu.index, gpu.uuid, gpu.name, gpu["mem_total_bytes"]) for gpu in row.gpus]

    assert fixed(by_nvml) == fixed(by_nvidia_smi)
