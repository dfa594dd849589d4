import getpass
import os
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from soractl.cluster import gpu_numbers, gpu_report, nvml
from soractl.cluster.gpu_numbers import NUMBERS, Number, combined
from soractl.cluster.gpus import Gpu, GpuProcess, NodeGpus, read_gpus
from soractl.errors import Fault, FaultKind
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node, this_machine
from soractl.remote.requests import NodeResult

RECORDED = Path(__file__).parent.parent.parent / "recorded" / "nvidia-smi"
STAND_IN = Path(__file__).parent.parent.parent / "cluster" / "bin"
NODE = Node("n1")
MIB = 2**20
H200 = "GPU-739c0fb5-d7b3-5f86-545d-0c41f279dd44"


def h100(index, **changes):
    values = {
        "uuid": f"GPU-5a1e0c7{index}-1b2c-4d3e-8f90-a1b2c3d4e5f{index}",
        "name": "NVIDIA H100 80GB HBM3",
        "util_pct": 98.0,
        "mem_used_bytes": 71234 * MIB,
        "mem_total_bytes": 81559 * MIB,
        "power_w": 697.81,
        "temp_c": 61.0,
    }
    values |= changes
    uuid, name = values.pop("uuid"), values.pop("name")
    return Gpu(index, uuid, name, values)


def combined_of(row, key, combine):
    return combined((gpu[key] for gpu in row.gpus), combine)


def node_that_says(text, code=0, apps="", apps_code=None, rest=""):
    """A Remote whose nodes answer as the script does where nvidia-smi prints `text`."""

    def remote(node, request, deadline_s):
        apps_end = f"=== apps {code if apps_code is None else apps_code}\n"
        stdout = f"=== start 0\n{text}=== gpus {code}\n{apps}{apps_end}{rest}"
        return NodeResult(node, stdout=stdout, exit_code=0)

    return remote


def read(remote, node=NODE):
    [row] = read_gpus([node], remote, deadline_s=5)
    return row


def test_a_busy_node_with_its_process_owner_and_run():
    rest = "/proc/409 me\n=== owners 0\n/proc/409/environ:SORACTL_RUN_ID=/runs/7 a\n=== runs 0\n"
    apps = (RECORDED / "h200-busy-apps.txt").read_text()
    row = read(node_that_says((RECORDED / "h200-busy.txt").read_text(), apps=apps, rest=rest))
    gpu = h100(0, uuid=H200, name="NVIDIA H200", util_pct=100.0, mem_used_bytes=1485 * MIB,
               mem_total_bytes=143771 * MIB, power_w=530.69, temp_c=50.0)  # fmt: skip
    process = GpuProcess(409, 0, 1476 * MIB, "/usr/bin/python3", user="me", run_id="/runs/7 a")
    assert row == NodeGpus(NODE, gpus=(gpu,), processes=(process,))
    assert (row.busy, row.bad, row.users, row.run_ids) == (True, False, ("me",), ("/runs/7 a",))


def recorded(name):
    return [(RECORDED / f"{name}{end}.txt").read_text() for end in ("", "-apps")]


def test_two_gpus_with_a_rank_each():
    text, apps = recorded("h100-two-busy")
    row = read(node_that_says(text, apps=apps))
    assert [(gpu.index, gpu["util_pct"], gpu["power_w"]) for gpu in row.gpus] == [
        (0, 100.0, 618.29),
        (1, 100.0, 482.04),
    ]
    python = "/usr/bin/python3"
    assert row.processes == (
        GpuProcess(1915, 0, 79030 * MIB, python),
        GpuProcess(1916, 1, 78548 * MIB, python),
    )


def test_a_process_that_is_ending_has_memory_and_no_name():
    text, apps = recorded("h100-ending")
    row = read(node_that_says(text, apps=apps))
    assert row.processes == (GpuProcess(1916, 1, 78550 * MIB, None),)
    assert [gpu["mem_used_bytes"] for gpu in row.gpus] == [580 * MIB, 78576 * MIB]


def test_a_process_of_this_machine_that_is_ending_has_no_name():
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert nvml._first_line(Path(f"/proc/{ended.pid}/cmdline"), b"") is None
    ended.wait()


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


@pytest.mark.parametrize(
    ("file", "code", "counts"),
    [
        ("version-mismatch.txt", 18, (None, None)),
        ("no-driver.txt", 9, (None, None)),
        ("no-devices.txt", 6, (0, 0)),
        ("lost-gpu.txt", 15, (2, None)),
        ("h200-busy.txt", 0, (1, 0)),
    ],
)
def test_only_an_answer_makes_a_zero(file, code, counts):
    row = read(node_that_says((RECORDED / file).read_text(), code))
    assert (row.gpu_count, row.process_count) == counts


def test_gpus_that_share_a_note_are_folded():
    line = "{0}, GPU-{0}, NVIDIA A100, 5, 10, 20, [N/A], 30, Disabled\n"
    row = read(node_that_says("".join(line.format(i) for i in (0, 1, 2, 5))))
    assert row.notes == ("GPU 0-2,5: power.draw not reported",)
    assert combined_of(row, "power_w", sum) is None
    assert combined_of(row, "util_pct", max) == 5


def test_an_exit_code_without_words_is_a_note():
    row = read(node_that_says((RECORDED / "h200-busy.txt").read_text(), 77, apps_code=0))
    assert row.notes == ("nvidia-smi: ended with exit code 77",)


def test_fewer_gpus_than_slots_is_a_note():
    row = read(node_that_says((RECORDED / "h200-busy.txt").read_text()), Node("n1", slots=8))
    assert row.notes == ("1 of 8 GPUs",)


def test_sums_and_means_are_over_the_gpus_that_answer():
    row = read(node_that_says((RECORDED / "unknown-error.txt").read_text()))
    found = {number.key: combined_of(row, number.key, sum) for number in NUMBERS}
    assert found == {
        "util_pct": 98.0,
        "mem_used_bytes": 71234 * MIB,
        "mem_total_bytes": 2 * 81559 * MIB,
        "power_w": 697.81,
        "temp_c": 61.0,
    }


@pytest.mark.parametrize(
    ("result", "fault"),
    [
        (
            NodeResult(NODE, fault=Fault(FaultKind.UNREACHABLE, "switched off")),
            Fault(FaultKind.UNREACHABLE, "switched off"),
        ),
        (
            NodeResult(
                NODE, stdout="=== start 0\n", fault=Fault(FaultKind.DEADLINE, "no end within 5 s")
            ),
            Fault(FaultKind.DEADLINE, "no end within 5 s: nvidia-smi is stuck"),
        ),
        (
            NodeResult(NODE, fault=Fault(FaultKind.DEADLINE, "no end within 5 s")),
            Fault(FaultKind.DEADLINE, "no end within 5 s"),
        ),
        (
            NodeResult(NODE, stderr="This account is not available.\n", exit_code=1),
            Fault(FaultKind.FAILED, "the node's shell printed: This account is not available."),
        ),
    ],
)
def test_a_node_that_does_not_answer_keeps_its_row(result, fault):
    seen = []
    [row] = read_gpus([NODE], lambda *request: result, deadline_s=5, on_result=seen.append)
    assert row == NodeGpus(NODE, fault=fault) == seen[0]
    assert row.bad


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder that says what nvidia-smi prints on this machine."""
    monkeypatch.setenv("PATH", f"{STAND_IN}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_GPUS", str(tmp_path))
    folder = tmp_path / this_machine().name
    folder.mkdir()
    return folder


def read_here(deadline_s=5):
    with Connections() as remote:
        [row] = read_gpus([Node("n1", local=True)], remote, deadline_s=deadline_s)
    return row


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


def test_a_new_number_is_one_line_from_the_question_to_the_table(stand_in, monkeypatch):
    fan = Number(
        key="fan_pct", query="fan.speed", most=100, columns={"FAN %": max}, nvml=lambda *_: 30
    )
    monkeypatch.setattr(gpu_numbers, "NUMBERS", (*NUMBERS, fan))
    (stand_in / "gpus.csv").write_text(
        "index, uuid, name, utilization.gpu, memory.used, memory.total, power.draw, "
        "temperature.gpu, mig.mode.current, fan.speed\n"
        "0, GPU-a, H100, 0, 1, 81559, 70, 30, Disabled, 40\n"
        "1, GPU-b, H100, 0, 1, 81559, 70, 30, Disabled, 60\n"
    )
    row = read_here()
    assert [gpu["fan_pct"] for gpu in row.gpus] == [40, 60]
    for what, cells in (("nodes", ["60"]), ("gpus", ["40", "60"])):
        table = gpu_report.table([row], what)
        at = table.headers.index("FAN %")
        assert [cell[at] for cell in table.rows] == cells
    assert gpu_report.as_json([row])["nodes"][0]["gpus"][1]["fan_pct"] == 60


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


def test_a_number_that_cannot_be_is_unknown_and_noted():
    row = read(node_that_says("0, GPU-a, H100, 4294967295, 90, 80, 70, 30, Disabled\n"))
    assert (row.gpus[0]["util_pct"], row.gpus[0]["mem_used_bytes"]) == (None, None)
    assert row.notes == (
        "GPU 0: utilization.gpu says 4.29497e+09, which cannot be",
        "GPU 0: memory.used is more than memory.total",
    )


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
    keys = {number.key: number.nvml(OldLibrary(), None) for number in NUMBERS[1:3]}
    assert keys == {"mem_used_bytes": 7, "mem_total_bytes": 9}


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


def test_a_node_without_nvidia_smi_says_so(monkeypatch, tmp_path):
    for name in ("sh", "timeout", "stat", "grep", "tr", "sed"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_here().notes == ("nvidia-smi: not installed, or not in PATH",)


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
