import json
import signal
import subprocess
import sys
import time

import pytest

from soractl.errors import ExitCode, Fault, FaultKind
from soractl.remote.fan_out import run_everywhere
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult, Request

A, B, C = Node("a"), Node("b"), Node("c")


def answer(node, request, deadline_s):
    if node == B:
        return NodeResult(node, fault=Fault(FaultKind.UNREACHABLE, "switched off"))
    return NodeResult(node, stdout=f"{node.name}: {' '.join(request.argv)}\n", exit_code=0)


def test_results_have_the_order_of_the_nodes_and_come_one_by_one():
    seen = []
    results = run_everywhere(
        [C, B, A], lambda node: Request(("hostname",)), answer, deadline_s=5, on_result=seen.append
    )
    assert results == [
        NodeResult(C, stdout="c: hostname\n", exit_code=0),
        NodeResult(B, fault=Fault(FaultKind.UNREACHABLE, "switched off")),
        NodeResult(A, stdout="a: hostname\n", exit_code=0),
    ]
    assert sorted(seen, key=str) == sorted(results, key=str)


def test_a_remote_that_overruns_its_deadline_is_left_behind():
    def stuck(node, request, deadline_s):
        if node == B:
            time.sleep(30)
        return answer(node, request, deadline_s)

    results = run_everywhere([A, B], lambda node: Request(("true",)), stuck, deadline_s=0.2)
    assert [result.fault and str(result.fault) for result in results] == [
        None,
        "deadline: no end within 0.2 s",
    ]


def test_a_bug_in_the_work_is_raised_and_not_hidden():
    def broken(node, request, deadline_s):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_everywhere([A], lambda node: Request(("true",)), broken, deadline_s=5)


def test_ctrl_c_gives_what_is_there_and_names_the_pending_nodes():
    program = """
import json, sys, time
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult, Request
from soractl.remote.fan_out import run_everywhere
from soractl.errors import exit_code_of
def remote(node, request, deadline_s):
    time.sleep(0 if node.name == "quick" else 60)
    return NodeResult(node, exit_code=0)
def tell(result):
    row = [result.node.name, result.exit_code, result.fault and str(result.fault)]
    print(json.dumps(row), flush=True)
nodes = [Node("slow"), Node("quick")]
results = run_everywhere(nodes, lambda n: Request(("x",)), remote, deadline_s=60, on_result=tell)
sys.exit(exit_code_of(result.problem for result in results))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        second = json.loads(process.stdout.readline())
    assert (first, second) == (["quick", 0, None], ["slow", None, "interrupted"])
    assert process.returncode == ExitCode.INTERRUPTED
