from pathlib import Path

import pytest

from soractl.cluster.gpu_columns import combined
from soractl.cluster.gpus import Gpu, GpuProcess, NodeGpus, read_gpus
from soractl.errors import Fault, FaultKind
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult

RECORDED = Path(__file__).parent.parent.parent / "recorded" / "nvidia-smi"
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


def test_fewer_gpus_than_slots_is_a_note():
    row = read(node_that_says((RECORDED / "h200-busy.txt").read_text()), Node("n1", slots=8))
    assert row.notes == ("1 of 8 GPUs",)


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


def read_here(deadline_s=5):
    with Connections() as remote:
        [row] = read_gpus([Node("n1", local=True)], remote, deadline_s=deadline_s)
    return row
