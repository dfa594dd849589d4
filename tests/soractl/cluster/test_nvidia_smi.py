import getpass
import os
import subprocess

import pytest

from soractl.cluster.gpus import GpuProcess
from soractl.remote.nodes import Node
from tests.soractl.cluster.test_gpus import (
    H200,
    MIB,
    RECORDED,
    combined_of,
    h100,
    node_that_says,
    read,
    read_here,
    recorded,
)


def test_a_process_that_is_ending_has_memory_and_no_name():
    text, apps = recorded("h100-ending")
    row = read(node_that_says(text, apps=apps))
    assert row.processes == (GpuProcess(1916, 1, 78550 * MIB, None),)
    assert [gpu["mem_used_bytes"] for gpu in row.gpus] == [580 * MIB, 78576 * MIB]


def test_a_process_that_names_itself_with_commas_and_one_of_an_unknown_gpu():
    apps = f"1, {H200}, [N/A], a, b, 5\n2, MIG-x, 10, [Not Found]\nnonsense\n"
    row = read(node_that_says((RECORDED / "h200-busy.txt").read_text(), apps=apps))
    assert row.processes == (
        GpuProcess(1, 0, None, "a, b, 5"),
        GpuProcess(2, None, 10 * MIB, None),
    )


@pytest.mark.parametrize(
    ("file", "code", "expected", "notes"),
    [
        (
            "not-available.txt",
            0,
            [h100(0, name="NVIDIA GeForce GT 710", util_pct=None, mem_used_bytes=213 * MIB,
                  mem_total_bytes=2004 * MIB, power_w=None, temp_c=44.0)],
            ["GPU 0: utilization.gpu, power.draw not reported"],
        ),
        (
            "not-supported.txt",
            0,
            [h100(0, name="GeForce GT 710", util_pct=None, mem_used_bytes=213 * MIB,
                  mem_total_bytes=2004 * MIB, power_w=None, temp_c=44.0)],
            ["GPU 0: utilization.gpu, power.draw not reported"],
        ),
        (
            "unknown-error.txt",
            0,
            [h100(0), h100(1, util_pct=None, mem_used_bytes=0, power_w=None, temp_c=None)],
            ["GPU 1: Unknown Error"],
        ),
        (
            "requires-reset.txt",
            0,
            [h100(0), h100(1, util_pct=None, mem_used_bytes=None, mem_total_bytes=None,
                           power_w=None, temp_c=None)],
            ["GPU 1: GPU requires reset"],
        ),
        ("all-unknown.txt", 0, [h100(0)], ["a GPU answers [Unknown Error]"]),
        ("err.txt", 0, [h100(0, power_w=None)], ["GPU 0: ERR!"]),
        (
            "lost-gpu.txt",
            15,
            [h100(0), h100(2)],
            ["nvidia-smi: a GPU has fallen off the bus",
             "Unable to determine the device handle for GPU0000:02:00.0: Unknown Error",
             "processes not known: nvidia-smi did not list them"],
        ),
        (
            "lost-gpu-old.txt",
            255,
            [],
            ["Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot"
             " the system to recover this GPU"],
        ),
        (
            "version-mismatch.txt",
            18,
            [],
            ["nvidia-smi: driver and library versions differ",
             "Failed to initialize NVML: Driver/library version mismatch",
             "NVML library version: 535.161"],
        ),
        ("no-devices.txt", 6, [], ["nvidia-smi: no device found", "No devices were found"]),
        (
            "no-driver.txt",
            9,
            [],
            ["nvidia-smi: the driver is not loaded",
             "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make"
             " sure that the latest NVIDIA driver is installed and running."],
        ),
        ("invalid-field.txt", 2, [], ['Field "mig.mode.current" is not a valid field to query.']),
        (
            "mig.txt",
            0,
            [h100(0, util_pct=None, mem_used_bytes=1234 * MIB, power_w=120.5, temp_c=35.0)],
            ["GPU 0: MIG is on, utilisation not reported"],
        ),
    ],
)  # fmt: skip
def test_an_odd_answer_is_a_note_and_never_a_false_zero(file, code, expected, notes):
    row = read(node_that_says((RECORDED / file).read_text(), code))
    found = [gpu.__class__(**{**vars(gpu), "notes": ()}) for gpu in row.gpus]
    assert (found, list(row.notes), row.fault, row.bad) == (expected, notes, None, True)


def test_an_exit_code_without_words_is_a_note():
    row = read(node_that_says((RECORDED / "h200-busy.txt").read_text(), 77, apps_code=0))
    assert row.notes == ("nvidia-smi: ended with exit code 77",)


def test_the_script_reads_eight_idle_gpus(stand_in):
    row = read_here()
    assert (row.node, row.fault, row.notes, row.processes) == (Node("n1", local=True), None, (), ())
    assert [gpu.index for gpu in row.gpus] == list(range(8))
    assert (row.gpus[7]["power_w"], combined_of(row, "temp_c", max), row.busy) == (
        77.37,
        37,
        False,
    )
    assert not row.bad


def test_a_field_that_an_older_driver_does_not_know_is_left_out(stand_in):
    (stand_in / "gpus.csv").write_text(
        "index, uuid, name, utilization.gpu, memory.used, memory.total, temperature.gpu\n"
        "0, GPU-a, H100, 5, 10, 81559, 30\n"
    )
    row = read_here()
    assert row.notes == ("GPU 0: power.draw not reported",)
    assert row.gpus[0].numbers == {
        "util_pct": 5,
        "mem_used_bytes": 10 * MIB,
        "mem_total_bytes": 81559 * MIB,
        "power_w": None,
        "temp_c": 30,
    }


def test_the_script_finds_owner_and_run_of_a_process(stand_in):
    environ = {**os.environ, "SORACTL_RUN_ID": "/runs/007 x", "OTHER": "SORACTL_RUN_ID=no"}
    gpu = "GPU-5a1e0c73-1b2c-4d3e-8f90-a1b2c3d4e5f3"
    with subprocess.Popen(["sleep", "60"], env=environ) as process:
        (stand_in / "apps.csv").write_text(
            "pid, gpu_uuid, used_memory, process_name\n"
            f"{process.pid}, {gpu}, 70000, python\n4194304, {gpu}, 5, ghost\n"
        )
        row = read_here()
        process.kill()
    assert row.processes == (
        GpuProcess(process.pid, 3, 70000 * MIB, "python", getpass.getuser(), "/runs/007 x"),
        GpuProcess(4194304, 3, 5 * MIB, "ghost"),
    )


def test_nvidia_smi_that_hangs_is_a_note_of_its_node(stand_in):
    (stand_in / "delay").write_text("30")
    row = read_here(deadline_s=5)
    assert row.notes == ("nvidia-smi: did not answer in time",)
    assert (row.gpu_count, row.process_count) == (None, None)


def test_a_node_without_nvidia_smi_has_a_note(monkeypatch, tmp_path):
    for name in ("sh", "timeout", "stat", "grep", "tr", "sed"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_here().notes == ("nvidia-smi: not installed, or not in PATH",)
