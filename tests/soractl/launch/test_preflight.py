import os
from dataclasses import replace
from pathlib import Path

import pytest

from soractl.cluster.gpus import Gpu, GpuProcess, NodeGpus
from soractl.cluster.settings import Cluster
from soractl.errors import Fault, FaultKind, SoractlError
from soractl.launch.plan import LaunchPlan, NodePlan
from soractl.launch.preflight import (
    INSTALL,
    NodeFacts,
    ask,
    check,
    hint_of,
    judge,
    judge_clocks,
    judge_gpus,
    judge_joining,
)
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.launch.start_point import StartPoint
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node

NODES = (Node("n1"), Node("n2"))
PLAN = LaunchPlan(
    run=Path("/shared/runs/001-smoke"),
    workdir=Path("/shared"),
    start=StartPoint("fresh"),
    cluster=Cluster(),
    head="n1",
    port=29500,
    nodes=tuple(NodePlan(node, rank, 2, {}, ()) for rank, node in enumerate(NODES)),
)
GOOD = NodeFacts(
    NODES[0],
    marker="secret",
    head_addresses=("10.0.0.1",),
    free_bytes=2**40,
    versions={"python": "3.11.7", "torch": "2.13.0"},
)

NO_ROUTE = Fault(FaultKind.UNREACHABLE, "no route")


def faults(*changes):
    facts = [replace(GOOD, node=node) for node in NODES]
    for index, change in changes:
        facts[index] = replace(facts[index], **change)
    return list(judge(PLAN, facts, "secret"))


def test_good_nodes_have_no_faults():
    assert faults() == []


@pytest.mark.parametrize(
    ("index", "change", "fault"),
    [
        (1, {"fault": NO_ROUTE}, "n2: unreachable: no route"),
        (
            1,
            {"marker": None},
            "n2: /shared/runs is not the folder that this machine knows by that name",
        ),
        (0, {"free_bytes": 2**29}, "n1: 0.5 GiB are free where the runs lie"),
        (1, {"head_addresses": ()}, "n2: the name n1 means nothing there"),
        (1, {"head_addresses": ("127.0.1.1",)}, "n2: it takes the head's name n1 for its own"),
        (0, {"port_is_free": False}, "n1: port 29500 is taken; master_port names another one"),
        (
            1,
            {"versions": {"python": "3.11.7", "torch": None}},
            "not the same torch everywhere: 2.13.0 on n1; None on n2",
        ),
        (1, {"can_write": False}, "n2: /shared/runs cannot be written there"),
        (
            1,
            {"shared_memory_free_bytes": 4096},
            "n2: /dev/shm is full: 4.1 kB are free, ranks need it",
        ),
        (1, {"used": "GPU 0 is used by 002-smoke of ana"}, "n2: GPU 0 is used by 002-smoke of ana"),
    ],
)
def test_each_fault_is_one_sentence_that_names_the_node(index, change, fault):
    assert faults((index, change)) == [fault]


def test_a_fault_of_many_nodes_is_one_line():
    dead = [
        replace(GOOD, node=Node(f"n{i}"), fault=Fault(FaultKind.UNREACHABLE, f"n{i}:22: refused"))
        for i in range(1, 201)
    ]
    assert list(judge(PLAN, dead, "secret")) == ["n[1-200]: unreachable: refused"]


def test_a_resume_without_a_lost_node_is_the_command_to_type():
    nodes = (Node("n1"), Node("n2"), Node("n3", user="ana", port=2222))
    facts = [replace(GOOD, node=node) for node in nodes]
    facts[1] = replace(facts[1], fault=NO_ROUTE)
    resumed = replace(PLAN, start=StartPoint("resume"))
    assert hint_of(resumed, facts) == (
        "`soractl resume 001-smoke --hostfile n1,ana@n3:2222` goes on without n2"
    )
    assert hint_of(resumed, facts[:2]) == (
        "`soractl resume 001-smoke --hostfile n1,` goes on without n2"
    )
    assert hint_of(PLAN, facts) == "--force starts all the same"


def test_a_port_that_another_run_uses_is_one_fault():
    used = "GPUs 0-7 and port 29500 are used by 002-smoke of ana since 02:10"
    assert faults((0, {"used": used, "port_is_free": False})) == [f"n1: {used}"]


def test_one_machine_under_two_names_is_refused():
    same = {"machine": "boot net:[1]"}
    assert faults((0, same), (1, same)) == ["n1 and n2 are one machine; it can be a node only once"]
    assert faults((0, same), (1, {"machine": "boot net:[2]"})) == []


def test_clocks_that_are_certainly_off_are_noted():
    offsets = (0.0, 1.9, -61.2, -60.9, 3600.0)
    facts = [replace(GOOD, node=Node(f"n{i}"), clock_offset_s=o) for i, o in enumerate(offsets)]
    assert judge_clocks(facts) == [
        "n[2-3]: its clock is 1 min 01 s behind this machine's",
        "n4: its clock is 1 h 00 min ahead of this machine's",
    ]


def test_the_command_that_installs_stands_on_the_first_page():
    page = (Path(__file__).parents[3] / "README.md").read_text()
    install = [line.split("#")[0].strip() for line in page.splitlines()]
    assert [line for line in install if line in INSTALL and line.startswith("pip install --no-")]


def test_a_port_is_wanted_of_the_head_alone():
    taken = {"port_is_free": False}
    assert faults((1, taken)) == []
    assert faults((0, {"fault": NO_ROUTE}), (1, taken)) == ["n1: unreachable: no route"]


def test_the_head_may_know_itself_by_a_loopback_address():
    assert faults((0, {"head_addresses": ("127.0.1.1",)})) == []


def gpu(index, **changes):
    numbers = {"util_pct": 0.0, "mem_used_bytes": 2**20, "mem_total_bytes": 2**36}
    return Gpu(index, None, "H100", {**numbers, "power_w": 70.0, "temp_c": 30.0, **changes})


IDLE = tuple(gpu(index) for index in range(4))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, []),
        ({"fault": Fault(FaultKind.FAILED, "nvidia-smi is stuck")}, ["n2: nvidia-smi is stuck"]),
        (
            {"gpus": IDLE[:1], "notes": ("GPU 1 is lost",)},
            ["n2: 1 of 2 GPUs; GPU 1 is lost"],
        ),
        (
            {"processes": (GpuProcess(7, 1, 2**34, "python", run_id="/shared/runs/000-x"),)},
            ["n2: 1 GPU in use by /shared/runs/000-x"],
        ),
        (
            {"gpus": (gpu(0, mem_used_bytes=2**35), *IDLE[1:])},
            ["n2: 1 GPU in use"],
        ),
        ({"processes": (GpuProcess(7, 3, 2**34, "python"),)}, []),  # two ranks use GPUs 0 and 1
    ],
)
def test_gpus_must_be_there_and_idle(changes, fault):
    rows = [NodeGpus(NODES[0], IDLE), replace(NodeGpus(NODES[1], IDLE), **changes)]
    assert list(judge_gpus(PLAN, rows)) == fault


def test_a_run_without_any_gpu_is_a_cpu_run():
    assert list(judge_gpus(PLAN, [NodeGpus(node, notes=("no driver",)) for node in NODES])) == []


def joining(*changes, rows=()):
    """What speaks against n2 and n3, while n1 runs."""
    nodes = (*NODES, Node("n3"))
    plan = replace(PLAN, nodes=tuple(NodePlan(node, i, 2, {}, ()) for i, node in enumerate(nodes)))
    facts = [replace(GOOD, node=node) for node in nodes]
    for index, change in changes:
        facts[index] = replace(facts[index], **change)
    return judge_joining(plan, facts, rows or [NodeGpus(node) for node in nodes], "secret")


def test_spares_are_compared_with_the_head_which_is_in_use():
    in_use = (0, {"port_is_free": False, "used": "001-smoke runs there"})
    assert joining(in_use) == {}
    assert joining(in_use, (1, {"free_bytes": 2**29}), (2, {"versions": {"torch": "2.1"}})) == {
        "n2": "0.5 GiB are free where the runs lie",
        "n3": "python None, the run has 3.11.7; torch 2.1, the run has 2.13.0",
    }
    assert joining((2, {"fault": NO_ROUTE})) == {"n3": "unreachable: no route"}


def test_a_spare_without_its_gpus_cannot_join_those_that_have_them():
    nodes = (*NODES, Node("n3"))
    rows = [NodeGpus(node, gpus=(gpu(0), gpu(1))) for node in nodes]
    busy = GpuProcess(9, 0, 2**34, "python", "someone")
    rows[0] = replace(rows[0], processes=(busy,))  # the run's own
    rows[2] = NodeGpus(nodes[2], gpus=(gpu(0),))
    assert joining(rows=rows) == {"n3": "1 of 2 GPUs"}


def test_what_a_node_answers_is_understood(workplace):
    prepared = prepare_launch("smoke", LaunchOptions(), os.environ)
    marker = workplace.write("runs/marker", "secret")
    with Connections() as remote:
        [facts] = ask(prepared.plan, marker, remote)
    assert (facts.fault, facts.marker, facts.port_is_free) == (None, "secret", True)
    assert facts.head_addresses == ("127.0.0.1",)
    assert list(facts.versions) == ["python", "trainer code", "torch", "colossalai"]


def test_a_node_without_python_is_named_and_nothing_is_left_behind(workplace):
    prepared = prepare_launch("smoke", LaunchOptions(), os.environ)
    (workplace.bin / "colossalai").unlink()
    with Connections() as remote, pytest.raises(SoractlError) as caught:
        check(prepared, remote)
    path = f"{workplace.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    name = os.uname().nodename
    assert (caught.value.exit_code, caught.value.message) == (
        5,
        f"not started:\n  {name}: no colossalai in {path}",
    )
    assert caught.value.hint == f"{INSTALL} install them"
    assert not (workplace.folder / "runs").exists()


def interrupting(remote, mark):
    """A Remote at whose first request with `mark` in it Ctrl-C comes."""

    def asked(node, request, deadline_s):
        if mark in request.stdin:
            raise KeyboardInterrupt
        return remote(node, request, deadline_s)

    return asked


@pytest.mark.parametrize("mark", ["hashlib", "nvidia-smi"])
def test_ctrl_c_while_nodes_are_looked_at_is_no_fault_of_theirs(workplace, mark):
    workplace.write("one.txt", "localhost slots=2\n")
    prepared = prepare_launch("smoke", LaunchOptions(hostfile="one.txt"), os.environ)
    with Connections() as remote, pytest.raises(SoractlError) as caught:
        check(prepared, interrupting(remote, mark))
    assert (caught.value.message, caught.value.hint, caught.value.exit_code) == (
        "interrupted; nothing was started",
        None,
        130,
    )
