import time

import pytest

from soractl.diagnosis.culprit import VerdictKind
from soractl.diagnosis.examination import examine
from soractl.diagnosis.flight_recorder import Collective, RankLook, look, rank_of_trace
from soractl.errors import Fault, FaultKind
from soractl.remote.connections import Connections
from soractl.remote.requests import NodeResult
from trainer.run_dir import AttemptDir

ENTRY = {
    "pg_id": 2,
    "collective_seq_id": 5,
    "profiling_name": "nccl:_reduce_scatter_base",
    "process_group": ["4", "save"],
    "retired": False,
    "state": "scheduled",
    "is_p2p": False,
    "thread_id": "11",
    "time_created_ns": 7,
}
STATUS = {
    "last_enqueued_collective": "5",
    "last_completed_collective": "-1",
    "last_started_collective": "5",
}
TRACE = {
    "main_thread": "10",
    "stacks": [{"thread": "10", "name": "MainThread", "frames": [["/a/trainer/step.py", 3, "f"]]}],
    "recorders": {"nccl": {"entries": [ENTRY], "pg_status": {"2": STATUS}}},
}


def test_a_trace_is_read_by_group_id_recorder_and_thread():
    found = rank_of_trace(TRACE, rank=3, node="n2")
    expected = Collective("nccl:2", 5, "reduce_scatter_base", "save", False, False, 7)
    assert found.collectives == (expected,)
    assert (found.enqueued, found.completed) == ({"nccl:2": 5}, {"nccl:2": 0})
    assert [str(frame) for frame in found.main_stack] == ["trainer/step.py:3 f"]


@pytest.mark.parametrize("description", ["save", "consensus"])
def test_where_a_recorder_does_not_tell_the_thread_the_groups_name_does(description):
    entry = {**ENTRY, "process_group": ["4", description]}
    del entry["thread_id"]
    trace = {**TRACE, "recorders": {"nccl": {"entries": [entry], "pg_status": {}}}}
    [found] = rank_of_trace(trace, rank=3, node="n2").collectives
    assert found.on_main_thread is (description != "save")


@pytest.mark.slow  # a rank that gives no answer is waited for
def test_ranks_are_asked_where_the_signal_is_blocked_and_nobody_else(start, record, tmp_path):
    answers, early = start(0, "answers"), start(1, "early")
    start(7, "early", SORACTL_RUN_ID="/another/run")
    with Connections() as remote:
        found = look(AttemptDir(tmp_path / "attempts/1"), record, remote)
    assert found.faults == {}
    assert [one.pid for one in found.ranks] == [answers.pid, early.pid]
    assert [one.can_answer for one in found.ranks] == [True, False]
    assert [one.answered for one in found.ranks] == [True, False]
    assert found.ranks[0].main_stack[0].function == "<module>"
    assert early.poll() is None


@pytest.mark.slow  # a rank that gives no answer is waited for
def test_a_rank_that_holds_the_interpreter_in_c_is_silent_and_a_missing_one_is_gone(
    start, record, tmp_path
):
    attempt = AttemptDir(tmp_path / "attempts/1")
    start(0, "answers")
    with Connections() as remote:
        gone = examine(attempt, record, remote, pause_s=0)
        start(1, "lock")
        time.sleep(0.5)  # until the lock is held
        silent = examine(attempt, record, remote, pause_s=0)
    assert (gone.verdict.kind, gone.verdict.ranks) == (VerdictKind.GONE, (1,))
    assert (silent.verdict.kind, silent.verdict.ranks) == (VerdictKind.SILENT, (1,))
    assert silent.verdict.reason == "its process lives; C code holds the interpreter's lock"


def test_the_ranks_of_a_node_that_gives_no_answer_are_unknown_not_gone(record, tmp_path):
    fault = Fault(FaultKind.UNREACHABLE, "connection refused")

    def remote(node, request, deadline_s):
        return NodeResult(node, fault=fault)

    found = look(AttemptDir(tmp_path / "attempts/1"), record, remote)
    assert (found.ranks, found.faults) == ((), {"here": fault})


def test_a_node_without_ranks_says_so(record, tmp_path):
    with Connections() as remote:
        found = look(AttemptDir(tmp_path / "attempts/1"), record, remote)
    assert found.ranks == tuple(RankLook(rank=rank, node="here") for rank in range(2))


def test_a_trace_that_was_cut_on_its_way_is_no_answer(record, attempt):
    def remote(node, request, deadline_s):
        lines = "0 7 1 S 1 H4sIAAAAAAAA\n1 8 1 S 1 -\n=== ranks 0\n"
        return NodeResult(node, stdout=lines, exit_code=0)

    found = look(attempt, record, remote)
    assert [(one.pid, one.can_answer, one.answered) for one in found.ranks] == [
        (7, True, False),
        (8, True, False),
    ]
