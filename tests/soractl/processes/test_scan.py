import os
import signal
import subprocess
import sys

import pytest

from soractl.errors import Fault, FaultKind
from soractl.processes.scan import NodeProcesses, find, parse
from soractl.processes.selection import Process, Selection
from soractl.processes.stop import StopResult, stop
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult
from tests.soractl.processes.processes import HERE, ME, NODE, running, stop_here


def test_what_a_node_says_becomes_processes():
    stdout = (
        "22/environ:SORACTL_RUN_ID=/runs/7 a\n22/environ:RANK=3\n=== environ 0\n"
        "22 me\n11 me\n=== owners 0\n"
        "11/stat:11 (sh) S 10 11 11 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 500 0\n"
        "22/stat:22 (a) b) c) D 1 22 22 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0\n"
        "23/stat:23 (zombie) Z 1 22 22 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 778 0\n"
        "24/stat:cut off\n=== stat 0\n"
        "11/cmdline:sh\n11/cmdline:-s\n22/cmdline:python\n22/cmdline:-c\n"
        "22/cmdline:two lines\n22/cmdline:\n=== cmdline 0\n=== self 11\n"
    )
    processes, own_pid = parse(NodeResult(NODE, stdout=stdout, exit_code=0))
    assert processes == [
        Process(NODE, 11, 10, 11, "me", None, None, "sh -s", "S", 500),
        Process(NODE, 22, 1, 22, "me", "/runs/7 a", 3, "python -c two lines ", "D", 777),
    ]
    assert own_pid == 11


WHOLE = (
    "7/environ:RANK=0\n=== environ 0\n7 me\n=== owners 0\n"
    "7/stat:7 (sh) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 500 0\n=== stat 0\n"
    "7/cmdline:sh\n=== cmdline 0\n=== self 7\n"
)
ODD = ["", WHOLE[:40], WHOLE[:-9], WHOLE.replace("500", "\0"), WHOLE.replace("7 me", "7")]


@pytest.mark.parametrize("stdout", [*ODD, "<html>", WHOLE.replace("\n", "\r\n")])
def test_an_answer_that_is_none_is_one_nodes_row(stdout):
    def remote(node, request, deadline_s):
        text = stdout if node.name == "odd" else WHOLE
        return NodeResult(node, stdout=text, exit_code=0)

    odd, good = Node("odd"), Node("good")
    fault = Fault(FaultKind.FAILED, "its answer cannot be read")
    rows = find([odd, good], remote, Selection(), deadline_s=1)
    assert rows == [NodeProcesses(odd, fault=fault), NodeProcesses(good)]


def test_a_node_that_does_not_answer_keeps_its_row():
    def remote(node, request, deadline_s):
        if node.name == "off":
            return NodeResult(node, fault=Fault(FaultKind.UNREACHABLE, "switched off"))
        return NodeResult(node, stderr="sudo: a password is required\n", exit_code=1)

    nodes = [Node("off"), Node("strict")]
    assert find(nodes, remote, Selection(sudo=True), deadline_s=5) == [
        NodeProcesses(nodes[0], fault=Fault(FaultKind.UNREACHABLE, "switched off")),
        NodeProcesses(nodes[1], fault=Fault(FaultKind.FAILED, "sudo: a password is required")),
    ]
    seen = []
    results = stop(nodes, remote, Selection(sudo=True), grace_s=1, on_result=seen.append)
    assert results == [
        StopResult(nodes[0], fault=Fault(FaultKind.UNREACHABLE, "switched off")),
        StopResult(nodes[1], fault=Fault(FaultKind.FAILED, "sudo: a password is required")),
    ]
    assert sorted(seen, key=str) == sorted(results, key=str)


def test_a_run_is_found_with_its_rank_and_children(tmp_path):
    run_id = str(tmp_path)
    with running(tmp_path, run_id) as process, Connections() as remote:
        [there] = find([HERE], remote, Selection(run_id=run_id), deadline_s=5)
        stop([HERE], remote, Selection(run_id=run_id), grace_s=5)
    found = {p.command[-4:]: (p.user, p.run_id, p.rank, p.role) for p in there.processes}
    assert found == {
        "term": (ME, run_id, 0, "rank"),
        "4720": (ME, run_id, 0, "worker"),
        "4721": (ME, None, None, "other"),
    }
    assert [p.pid for p in there.processes if p.role == "rank"] == [process.pid]


NAMED = """
import ctypes, sys, time
ctypes.CDLL(None).prctl(15, sys.argv[1].encode("latin-1"))
print("up", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("name", ["two\nlines) S 1", ") S 2 0 0 0", "a\n1/stat:1 (", "\xff("])
def test_no_name_of_a_process_hides_it_or_stops_a_scan(tmp_path, name):
    """A process names itself as it likes, with line ends and brackets."""
    with (
        running(tmp_path, f"{tmp_path}/other") as other,
        subprocess.Popen(
            [sys.executable, "-c", NAMED, name],
            env={**os.environ, "SORACTL_RUN_ID": str(tmp_path)},
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as named,
    ):
        named.stdout.readline()
        result = stop_here(Selection(run_id=str(tmp_path)), 5)
        assert (result.ok, [p.pid for p in result.found]) == (True, [named.pid])
        assert named.wait(1) == -signal.SIGTERM
        assert other.poll() is None
