import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from soractl.errors import ExitCode, Fault, FaultKind
from soractl.remote.connections import Connections
from soractl.remote.fan_out import run_everywhere
from soractl.remote.local import stream
from soractl.remote.nodes import Node, this_machine
from soractl.remote.requests import NodeResult, Request
from soractl.remote.scripts import sections

A, B, C = Node("a"), Node("b"), Node("c")
HERE = this_machine()


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


def test_sections_are_closed_by_their_name():
    text = "one\ntwo\n=== first 0\n=== empty 3\nrest"
    assert sections(text) == {"first": ("one\ntwo\n", 0), "empty": ("", 3)}


def test_the_local_node_needs_no_ssh():
    with Connections() as remote:
        result = remote(HERE, Request(("sh", "-c", "cat; echo wrong >&2; exit 3"), "input\n"), 5)
    assert (result.stdout, result.stderr, result.exit_code) == ("input\n", "wrong\n", 3)


def test_a_missing_program_is_127_on_the_local_node_too():
    with Connections() as remote:
        result = remote(HERE, Request(("no-such-program",)), 5)
    assert (result.exit_code, result.stderr) == (
        127,
        "no-such-program: No such file or directory\n",
    )


def test_a_local_command_that_hangs_ends_with_its_children():
    with Connections() as remote:
        result = remote(HERE, Request(("sh", "-c", "echo begun; sleep 4711 & sleep 4712")), 1)
    assert (result.stdout, str(result.fault)) == ("begun\n", "deadline: no end within 1 s")
    assert result.elapsed_s < 5
    assert_none_sleep("4711", "4712")


def test_a_local_command_that_is_killed_has_the_code_a_shell_would_give():
    with Connections() as remote:
        assert remote(HERE, Request(("sh", "-c", "kill -9 $$")), 5).exit_code == 137


def test_starting_without_ssh_does_not_load_paramiko():
    loaded = "soractl.remote.connections, soractl.cluster.gpus, soractl.processes.scan"
    code = f"import sys, {loaded}; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'paramiko'" not in done.stdout


def test_a_stream_comes_in_pieces_and_ends_with_the_programs_code(tmp_path):
    pieces = []

    def take(piece):
        pieces.append(piece)
        (tmp_path / "taken").touch()

    wait = f"until [ -e {tmp_path}/taken ]; do sleep 0.01; done"
    done = stream(["sh", "-c", f"echo one; {wait}; echo two; echo wrong >&2; exit 3"], take)
    assert (pieces, done.stderr.text, done.exit_code) == ([b"one\n", b"two\n"], "wrong\n", 3)
    assert stream(["no-such-program"], pieces.append).exit_code == 127


def test_a_stream_that_is_left_may_put_away_its_work(tmp_path):
    class Enough(Exception):
        pass

    def enough(piece):
        raise Enough

    script = f"trap 'sleep 0.3; touch {tmp_path}/put-away; exit' TERM; echo; sleep 4713 & wait"
    with pytest.raises(Enough):
        stream(["sh", "-c", script], enough)
    assert (tmp_path / "put-away").exists()
    assert_none_sleep("4713")


def test_a_stream_ends_with_a_process_that_is_killed():
    program = """
from soractl.remote.local import stream
stream(["sh", "-c", "echo; exec sleep 4714"], lambda piece: print("begun", flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.kill()
    assert_none_sleep("4714")


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


def assert_none_sleep(*seconds):
    """No `sleep` of these lasts, or none does in a moment."""
    limit = time.monotonic() + 10
    while commands_with(*seconds) and time.monotonic() < limit:
        time.sleep(0.05)
    assert commands_with(*seconds) == []


def commands_with(*words):
    """Command lines of living processes that have one of the words as an argument."""
    return [command for command in commands() if set(words) & set(command)]


def commands():
    """The command lines of all processes, word by word."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
