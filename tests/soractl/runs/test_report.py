from soractl.errors import Fault, FaultKind
from soractl.processes.scan import NodeProcesses
from soractl.processes.selection import Process
from soractl.processes.stop import StopResult
from soractl.remote.nodes import Node
from soractl.runs import report
from soractl.runs.kill import Killed


def process(pid, role="rank", state="S"):
    return Process(
        node=Node("n1"),
        pid=pid,
        ppid=1,
        sid=1,
        user="me",
        run_id="/r",
        rank=0,
        command="python train.py",
        state=state,
        started=5,
        role=role,
    )


FOUND = (process(1), process(2), process(3, "worker"), process(4, "other"))


def shown(*stopped):
    found = tuple(NodeProcesses(s.node, s.found, s.fault) for s in stopped)
    killed = Killed("007-stage2", found, tuple(stopped))
    return report.kill_lines(killed), killed.exit_code


def test_one_line_a_node_and_the_count():
    ok = StopResult(Node("n1"), FOUND, killed=1)
    assert shown(ok, StopResult(Node("n2"))) == (
        [
            "n1: 2 ranks, 1 worker, 1 other; 1 by SIGKILL",
            "n2: nothing there",
            "007-stage2: 4 processes stopped",
        ],
        0,
    )


def test_equal_nodes_are_one_line():
    stopped = [StopResult(Node(f"n{i:03}"), FOUND[:1]) for i in range(1, 201)]
    lines, _ = shown(*stopped)
    assert lines == ["n[001-200]: 1 rank", "007-stage2: 200 processes stopped"]
    killed = Killed("007-stage2", tuple(NodeProcesses(s.node, s.found) for s in stopped), ())
    assert report.kill_lines(killed) == ["would stop 007-stage2", "n[001-200]: 1 rank"]


def test_what_is_still_there_is_named_and_is_exit_code_1():
    stuck = process(1, state="D")
    result = StopResult(Node("n1"), FOUND, killed=4, survivors=(stuck,), gpu_pids=(3,))
    lines, code = shown(result)
    assert lines[0] == (
        "n1: 2 ranks, 1 worker, 1 other; 4 by SIGKILL; still there: 1 in state D, which only the "
        "kernel ends python train.py; GPU memory still held by 3"
    )
    assert (lines[1], code) == ("007-stage2: 3 processes stopped", 1)


def test_a_node_that_cannot_be_asked_is_exit_code_4():
    ok = StopResult(Node("n1"), FOUND)
    dead = StopResult(Node("n2"), fault=Fault(FaultKind.UNREACHABLE, "no route"))
    assert shown(ok, dead) == (
        [
            "n1: 2 ranks, 1 worker, 1 other",
            "n2: unreachable: no route",
            "007-stage2: 4 processes stopped",
        ],
        4,
    )


def test_nothing_to_stop_is_no_fault():
    assert report.kill_lines(None) == ["no run of yours is running"]
    nothing = Killed("007-stage2", (NodeProcesses(Node("n1")),), ())
    assert (report.kill_lines(nothing), nothing.exit_code) == (
        ["nothing of 007-stage2 is running"],
        0,
    )


def test_a_dry_run_shows_what_would_be_stopped():
    killed = Killed("007-stage2", (NodeProcesses(Node("n1"), FOUND),), ())
    assert report.kill_lines(killed) == ["would stop 007-stage2", "n1: 2 ranks, 1 worker, 1 other"]
