import base64
import gzip
import json
import signal
import time

import pytest

from soractl.diagnosis.flight_recorder import Frame, Look, RankLook, Stack
from soractl.diagnosis.stacks import (
    ProcessStacks,
    Stacks,
    flags_of,
    fold,
    odd_processes,
    stacks_of,
    take,
    take_rounds,
)
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult

PYSTACK = """\
Traceback for thread 29736 (python) [] (most recent call last):
    (Python) File "/x/threading.py", line 1002, in _bootstrap

Traceback for thread 41 (python) [Has the GIL,Garbage collecting] (most recent call last):
    (Python) File "/x/train.py", line 3, in <module>
"""


def frame(name):
    return Frame("/x/trainer/step.py", 1, name)


def process(rank, *names, role="rank", node="n1", thread="MainThread"):
    stacks = (Stack(thread, tuple(map(frame, names)), is_main=True),)
    return ProcessStacks(rank, node, 100 + rank, role, "S", stacks)


def answer(text, *lines, node="n1", ptrace="1"):
    printed = "".join(
        f"{line} {base64.b64encode(gzip.compress(text.encode())).decode()}\n" for line in lines
    )
    sections = f"{printed}=== processes 0\n{ptrace}\n=== ptrace 0\n"
    return NodeResult(Node(node), stdout=sections, exit_code=0)


def py_spy(*threads):
    return json.dumps(
        [
            {
                "thread_name": name,
                "os_thread_id": number,
                "frames": [{"filename": "/x/a.py", "line": 4, "name": function}],
            }
            for number, name, function in threads
        ]
    )


def test_equal_stacks_are_one_entry_and_the_odd_one_comes_first():
    found = [process(n, "wait", "run") for n in (0, 2, 3)] + [process(1, "sleep", "run")]
    found += [process(0, "recv", role="worker")]
    entries = fold(Stacks(tuple(found)))
    assert [(entry.role, entry.ranks) for entry in entries] == [
        ("rank", (1,)),
        ("rank", (0, 2, 3)),
        ("worker", (0,)),
    ]
    assert odd_processes(found) == [found[3]]


def test_threads_that_are_numbered_are_folded_by_their_kind():
    processes = []
    for rank, name in ((0, "Thread-3 (read)"), (1, "Thread-11 (read)")):
        processes.append(ProcessStacks(rank, "n1", rank, "rank", "S", (Stack(name, ()),)))
    [entry] = fold(Stacks(tuple(processes)))
    assert (entry.thread, entry.ranks) == ("Thread", (0, 1))


def test_without_a_majority_all_are_odd_and_alike_none_is():
    split = [process(0, "wait"), process(1, "sleep")]
    assert odd_processes(split) == split
    assert odd_processes([process(0, "wait"), process(1, "wait")]) == []


def test_at_most_four_processes_of_a_node_are_read_slowly():
    found = [process(n, f"f{n}") for n in range(8)]
    assert odd_processes(found) == found[:4]


def test_what_py_spy_printed_becomes_threads():
    text = py_spy((7, "MainThread", "sleep"), (9, "trace", "sigwait"))
    found = stacks_of([answer(text, "3 7 rank S 0")])
    sleeping = Stack("MainThread", (Frame("/x/a.py", 4, "sleep"),), is_main=True)
    waiting = Stack("trace", (Frame("/x/a.py", 4, "sigwait"),))
    assert found == Stacks((ProcessStacks(3, "n1", 7, "rank", "S", (sleeping, waiting)),))


@pytest.mark.parametrize(
    "words",
    [
        "Permission Denied: Try running again with elevated permissions",
        "Error: Failed to get process executable name. Check that the process is running.",
    ],
)
def test_forbidden_tracing_is_a_note_and_the_ranks_own_stacks_stand_in(words, record, attempt):
    found = stacks_of([answer(words, "0 7 rank S 1", ptrace="2")])
    assert found.notes == ("n1: tracing is forbidden (ptrace_scope 2)",)
    assert found.processes[0].error == words

    stacks = process(0, "f").stacks
    own = Look((RankLook(rank=0, node="n1", pid=7, answered=True, stacks=stacks),), 0.0)

    def remote(node, request, deadline_s):
        return answer(words, "0 7 rank S 1", node=node.name)

    [rank] = take(attempt, record, remote, lambda: own).processes
    assert (rank.stacks, rank.error) == (stacks, "")


def test_flags_are_those_of_the_main_thread():
    result = answer(PYSTACK, "1 41 rank R 0")
    assert flags_of([result]) == {("n1", 41): ("Has the GIL", "Garbage collecting")}


@pytest.mark.slow  # py-spy and pystack look at real processes
def test_real_processes_are_read_also_when_stopped_or_when_c_code_holds_the_lock(
    start, record, attempt
):
    start(0, "answers").send_signal(signal.SIGSTOP)
    start(1, "lock")
    time.sleep(0.5)
    with Connections() as remote:
        before, now = take_rounds(attempt, record, remote, 0.1)
    assert now.notes == before.notes == ()
    assert [(p.rank, p.state, p.error) for p in now.processes] == [(0, "T", ""), (1, "S", "")]
    assert [p.stacks[0].frames for p in now.processes] == [
        p.stacks[0].frames for p in before.processes
    ]
    assert "Has the GIL" in now.processes[1].flags
