import os
from dataclasses import replace
from pathlib import Path

import pytest

from soractl.cluster.gpus import Gpu, GpuProcess, NodeGpus
from soractl.cluster.settings import Cluster
from soractl.errors import Fault, FaultKind, SoractlError
from soractl.health.examine import NodeAnswer
from soractl.health.facts import Facts
from soractl.launch.plan import LaunchPlan, NodePlan
from soractl.launch.preflight import (
    INSTALL,
    Asked,
    ask,
    check,
    clock_offset_s,
    hint_of,
    judge,
    judge_gpus,
    judge_joining,
    with_twins,
)
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.launch.start_point import StartPoint
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult

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
GOOD = {
    "folder": "/shared/runs",
    "shared": "yes",
    "writes": "yes",
    "free bytes": str(2**40),
    "shared memory": str(2**30),
    "head": "n1",
    "head addresses": "10.0.0.1",
    "port number": "29500",
    "used": "no",
    "clock offset": "0.000000",
    "clock limit": "50.0",
    "twin": "none",
}
VERSIONS = {"python": "3.11.7", "torch": "2.13.0"}
NO_ROUTE = Fault(FaultKind.UNREACHABLE, "no route")


def never(*_):
    return None


def answer(node, versions=(), **changes):
    """What a node answers when all is well, but for these fields; spaces of names as _."""
    fields = {**GOOD, "is head": "yes" if node == NODES[0] else "no"}
    fields |= {name.replace("_", " "): value for name, value in changes.items()}
    items = {
        "ready": {"": {"says": "ok"}},
        "launch": {"": fields},
        "version": {name: {"version": v} for name, v in {**VERSIONS, **dict(versions)}.items()},
    }
    return NodeAnswer(node, Facts(items))


def faults(*changes):
    """Faults of two nodes, where node `index` has other fields."""
    answers = [answer(node, **dict(changes).get(i, {})) for i, node in enumerate(NODES)]
    return judge(PLAN, answers, never)[0]


def plan_of(answers):
    nodes = [NodePlan(one.node, rank, 2, {}, ()) for rank, one in enumerate(answers)]
    return replace(PLAN, nodes=tuple(nodes))


def judged(answers, muted=never):
    return judge(plan_of(answers), answers, muted)


def test_good_nodes_have_no_faults():
    assert faults() == []


@pytest.mark.parametrize(
    ("index", "change", "fault"),
    [
        (
            1,
            {"shared": "no"},
            "n2: /shared/runs is not the folder that this machine knows by that name",
        ),
        (0, {"free_bytes": str(2**29)}, "n1: 0.5 GiB are free where the runs lie"),
        (1, {"head_addresses": "none"}, "n2: the name n1 means nothing there"),
        (1, {"head_addresses": "127.0.1.1"}, "n2: it takes the head's name n1 for its own"),
        (0, {"port": "taken"}, "n1: port 29500 is taken; master_port names another one"),
        (1, {"writes": "no"}, "n2: /shared/runs cannot be written there"),
        (
            1,
            {"shared_memory": "4096"},
            "n2: /dev/shm is full: 4.1 kB are free, ranks need it",
        ),
        (1, {"used": "GPU 0 is used by 002-smoke of ana"}, "n2: GPU 0 is used by 002-smoke of ana"),
        (
            1,
            {"twin": "n1"},
            "n2: it is n1 under another name; a machine can be a node only once",
        ),
    ],
)
def test_each_fault_is_one_sentence_that_names_the_node(index, change, fault):
    assert faults((index, change)) == [fault]


def test_other_versions_on_one_of_many_nodes_are_its_fault_and_of_two_the_fault_of_both():
    assert faults((1, {"versions": {"torch": "not installed"}})) == [
        "n1: torch: 2.13.0, and nodes differ (fleet)",
        "n2: torch: not installed, and nodes differ (fleet)",
    ]
    three = [*map(answer, NODES), answer(Node("n3"), {"torch": "2.12.0", "python": "3.11.9"})]
    assert judged(three)[0] == [
        "n3: python: 3.11.9, most have 3.11.7 (fleet)",
        "n3: torch: 2.12.0, most have 2.13.0 (fleet)",
    ]


def test_a_node_that_does_not_answer_is_a_fault_and_judges_nobody():
    lost = NodeAnswer(NODES[1], fault=NO_ROUTE)
    assert judged([answer(NODES[0]), lost])[0] == ["n2: unreachable: no route"]


def test_of_the_hardware_only_what_ranks_fail_on_is_a_fault_and_the_rest_a_note():
    def found(kind, item, **fields):
        bad = answer(NODES[1])
        items = {**bad.facts.items, kind: {item: fields}}
        return judged([answer(NODES[0]), replace(bad, facts=Facts(items))])

    pending = {"Remapped Rows/Pending": "Yes"}
    sentence = "rows to remap: Yes, expected No"
    assert found("gpu", "1", **pending) == ([f"n2: GPU 1: {sentence}"], [])
    assert found("gpu", "3", **pending) == ([], [f"n2: GPU 3: {sentence}"])  # no rank uses it
    assert found("mount", "/data", access="ro") == ([], ["n2: /data: mounted: ro, expected rw"])
    line = "[7.1] blk_update_request: I/O error, dev nvme0n1, sector 8"
    assert found("kernel", "", messages=line) == ([], [f"n2: the kernel says: {line}"])


def test_a_node_whose_driver_is_dead_is_judged_by_the_rest():
    bad = answer(NODES[1], writes="no")
    dead = replace(bad, facts=Facts(bad.facts.items, missing={"gpu": "nvidia-smi: no answer"}))
    assert judged([answer(NODES[0]), dead]) == (["n2: /shared/runs cannot be written there"], [])


def test_what_is_silenced_stops_no_start():
    bad = answer(NODES[1], writes="no")
    assert judged([answer(NODES[0]), bad], lambda check, node: "known") == ([], [])


def test_two_names_of_one_machine_are_found_and_containers_of_one_are_not():
    def twins(*machines):
        found = with_twins([answer(Node(f"n{i}"), machine=m) for i, m in enumerate(machines)])
        return [one.facts.one("launch", "twin") for one in found]

    assert twins("boot net:[1]", "boot net:[2]", "boot net:[1]") == ["none", "none", "n0"]


def test_a_fault_of_many_nodes_is_one_line():
    dead = [
        NodeAnswer(Node(f"n{i}"), fault=Fault(FaultKind.UNREACHABLE, f"n{i}:22: refused"))
        for i in range(1, 201)
    ]
    assert judged(dead)[0] == ["n[1-200]: unreachable: refused"]


def test_a_resume_without_a_lost_node_is_the_command_to_type():
    nodes = (Node("n1"), Node("n2"), Node("n3", user="ana", port=2222))
    answers = [answer(node) for node in nodes]
    answers[1] = NodeAnswer(nodes[1], fault=NO_ROUTE)
    resumed = replace(PLAN, start=StartPoint("resume"))
    assert hint_of(resumed, answers) == (
        "`soractl resume 001-smoke --hostfile n1,ana@n3:2222` goes on without n2"
    )
    assert hint_of(resumed, answers[:2]) == (
        "`soractl resume 001-smoke --hostfile n1,` goes on without n2"
    )
    assert hint_of(PLAN, answers) == (
        "`soractl doctor` has a remedy for each; --force starts all the same"
    )
    used = answer(NODES[1], used="GPU 0 is used by 002-smoke of ana")
    assert hint_of(PLAN, [answers[0], used]) is None


@pytest.mark.parametrize(
    ("arrived", "left", "offset"),
    [
        (105.0, 106.0, 0.0),  # sent at 100, back at 110: between them lies all of it
        (95.0, 96.0, -5.0),
        (113.0, 114.0, 4.0),
    ],
)
def test_only_the_certain_part_of_a_clocks_offset_counts(arrived, left, offset):
    text = f"{arrived}\n=== arrived 0\nrest\n=== launch 0\n{left}\n=== left 0\n"
    assert clock_offset_s(NodeResult(NODES[0], text), 100.0, 110.0) == offset
    assert clock_offset_s(NodeResult(NODES[0], "=== launch 0\n"), 100.0, 110.0) is None


def test_clocks_that_are_certainly_off_are_noted():
    offsets = (0.0, 0.04, -61.2, -60.9, 3600.0)
    answers = [answer(Node(f"n{i}"), clock_offset=str(o)) for i, o in enumerate(offsets)]
    assert judged(answers) == (
        [],
        [
            "n[2-3]: its clock is 1 min 01 s behind this machine's",
            "n4: its clock is 1 h 00 min ahead of this machine's",
        ],
    )


def test_the_command_that_installs_stands_on_the_first_page():
    page = (Path(__file__).parents[3] / "README.md").read_text()
    install = [line.split("#")[0].strip() for line in page.splitlines()]
    assert [line for line in install if line in INSTALL and line.startswith("pip install --no-")]


def test_the_head_may_know_itself_by_a_loopback_address():
    assert faults((0, {"head_addresses": "127.0.1.1"})) == []


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
    answers = [answer(node, **dict(changes).get(i, {})) for i, node in enumerate(nodes)]
    return judge_joining(plan_of(answers), answers, rows or [NodeGpus(node) for node in nodes])


def test_spares_are_compared_with_the_head_which_is_in_use():
    in_use = (0, {"used": "001-smoke runs there"})
    assert joining(in_use) == {}
    odd = {"python": "3.11.9", "torch": "2.1"}
    assert joining(in_use, (1, {"free_bytes": str(2**29)}), (2, {"versions": odd})) == {
        "n2": "0.5 GiB are free where the runs lie",
        "n3": "python: 3.11.9, the run has 3.11.7 (fleet); torch: 2.1, the run has 2.13.0 (fleet)",
    }


def test_a_spare_without_its_gpus_cannot_join_those_that_have_them():
    nodes = (*NODES, Node("n3"))
    rows = [NodeGpus(node, gpus=(gpu(0), gpu(1))) for node in nodes]
    busy = GpuProcess(9, 0, 2**34, "python", "someone")
    rows[0] = replace(rows[0], processes=(busy,))  # the run's own
    rows[2] = NodeGpus(nodes[2], gpus=(gpu(0),))
    assert joining(rows=rows) == {"n3": "1 of 2 GPUs"}


def test_what_a_node_answers_is_understood(workplace):
    prepared = prepare_launch("smoke", LaunchOptions(), os.environ)
    marker = workplace.write("runs/marker", "marker")
    with Connections() as remote:
        [found] = ask(Asked(prepared.plan, marker), remote)
    fields = found.facts.of("launch")[""]
    assert (found.fault, fields["shared"], fields["port"]) == (None, "yes", "free")
    assert (fields["head addresses"], fields["used"], fields["twin"]) == ("127.0.0.1", "no", "none")
    assert abs(float(fields["clock offset"])) < 0.05
    assert list(found.facts.of("version")) == [
        *("python", "trainer code", "torch", "colossalai", "NCCL"),
    ]
    assert found.facts.one("cpu", "count") == str(os.cpu_count())


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
