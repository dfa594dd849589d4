import os
from dataclasses import replace

import pytest

from soractl.remote.nodes import Node
from soractl.remote.ssh_command import SshOptions
from soractl.runs.events import EventKind, EventLog, read_events
from soractl.runs.lost_nodes import VANISHED
from soractl.runs.node_states import NodeState
from soractl.runs.post_mortem import Failure, Outcome, read_outcome, settle
from soractl.runs.record import AttemptRecord
from trainer.atomic_files import write_json
from trainer.run_dir import RunDir, create_run

RECORD = AttemptRecord("/runs/001-x", (Node("n1"), Node("n2")), (2, 2), SshOptions(), 0.0)

# What torchrun and colossalai print, cut to what counts.
KILLED = """\
loading
[rank0]: RuntimeError: Connection reset by peer
W1123 15:03:13.245000 8454 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process \
8782 closing signal SIGTERM
E1123 15:03:13.262000 8454 torch/distributed/elastic/multiprocessing/api.py:1002] failed \
(exitcode: -9) local_rank: 1 (pid: 8783) of binary: /venv/bin/python
Failures:
[1]:
  rank      : 2 (local_rank: 0)
  exitcode  : -15 (pid: 8782)  (SIGTERM)
Root Cause (first observed failure):
[0]:
  time      : 2026-11-23_15:03:13
  host      : localhost
  rank      : 3 (local_rank: 1)
  exitcode  : -9 (pid: 8783)  (SIGKILL)
  error_file: <N/A>
Error: failed to run torchrun --nproc_per_node=2
"""
STOPPED = """\
step 3
torch.distributed.elastic.multiprocessing.api.SignalException: Process 99 got signal: 15
"""


@pytest.fixture
def attempt(tmp_path):
    return create_run(tmp_path, "smoke").new_attempt()


def tell(attempt, rank, error, time_unix_s):
    account = {"rank": rank, "error": error, "traceback": "Trace", "time_unix_s": time_unix_s}
    write_json(attempt.rank_failure(rank), account)


def failure(attempt, *exit_codes, lost=()):
    states = [
        NodeState(node.name, code) for node, code in zip(RECORD.nodes, exit_codes, strict=True)
    ]
    outcome = settle(attempt, RECORD, states, dict(lost))
    return outcome.exit_code, outcome.first_failure


def test_an_attempt_whose_nodes_all_ended_well_has_no_failure(attempt):
    assert failure(attempt, 0, 0) == (0, None)


def test_a_lost_node_is_the_cause_of_what_others_complain_about(attempt):
    tell(attempt, 0, "RuntimeError: Connection reset", 5)
    attempt.node_log("n2").write_text("step 7\n")
    assert failure(attempt, 1, None, lost={"n2": "the node does not answer"}) == (
        1,
        Failure("n2", "the node does not answer", log_tail=("step 7",), lost=("n2",)),
    )


def test_a_killed_rank_is_the_cause_of_what_others_complain_about(attempt):
    tell(attempt, 0, "RuntimeError: Connection reset", 5)
    attempt.node_log("n2").write_text(KILLED)
    log = ("loading", "[rank0]: RuntimeError: Connection reset by peer")
    error = "killed by SIGKILL; the kernel does that when memory runs out"
    assert failure(attempt, 1, 1) == (1, Failure("n2", error, rank=3, log_tail=log))


def test_a_rank_may_be_killed_by_a_signal_that_has_no_name_of_its_own(attempt):
    attempt.node_log("n2").write_text(
        KILLED.replace("-9 (pid: 8783)  (SIGKILL)", "-40 (pid: 8783)")
    )
    code, first = failure(attempt, 1, 1)
    assert (code, first.error, first.rank) == (1, "killed by SIGRTMIN+6", 3)


def test_the_error_of_the_rank_that_failed_first_is_the_reason(attempt):
    tell(attempt, 1, "RuntimeError: Connection closed", 6)
    tell(attempt, 2, "ValueError: boom", 5)
    attempt.node_log("n2").write_text("a\nb\n")
    assert failure(attempt, 1, 1) == (
        1,
        Failure("n2", "ValueError: boom", rank=2, traceback="Trace", log_tail=("a", "b")),
    )


def test_ranks_that_saved_and_left_at_a_signal_were_stopped(attempt):
    write_json(attempt.stopped, {"signal": "SIGUSR1", "global_step": 4, "time_unix_s": 5})
    attempt.node_log("n1").write_text(STOPPED)
    assert failure(attempt, 1, 1) == (143, Failure("n1", "SIGUSR1", stopped=True))


def test_a_launcher_that_was_stopped_before_its_ranks_could_save_names_the_signal(attempt):
    attempt.node_log("n1").write_text(STOPPED)
    assert failure(attempt, 1, 1) == (143, Failure("n1", "SIGTERM", stopped=True))


def test_a_rank_that_was_stopped_before_it_could_save_is_no_failure(attempt):
    attempt.node_log("n1").write_text(KILLED.replace("exitcode  : -9", "exitcode  : -15"))
    assert failure(attempt, 1, 1) == (143, Failure("n1", "SIGTERM", stopped=True))


def test_without_any_account_the_end_of_the_log_has_to_do(attempt):
    attempt.node_log("n2").write_text("".join(f"line {i}\n" for i in range(100)))
    assert failure(attempt, 0, 127) == (
        1,
        Failure(
            "n2",
            "`colossalai run` ended with exit code 127",
            log_tail=tuple(f"line {i}" for i in range(85, 100)),
        ),
    )


def test_an_outcome_is_read_back_as_it_was_written(attempt):
    assert read_outcome(attempt) is None
    outcomes = [
        Outcome(0, 5.0, None),
        Outcome(1, 5.0, Failure("n", "e", rank=1, traceback="t", log_tail=("a",))),
    ]
    for outcome in outcomes:
        write_json(attempt.exit, outcome.as_json())
        assert read_outcome(attempt) == outcome


@pytest.mark.parametrize(
    ("accounts", "rank", "node"),
    [
        ([0, 1, 3], 2, "n2"),  # the others say that they waited, it says nothing
        ([3, 0, 1, 2], 2, "n2"),  # it came last
        ([0, 1], 2, "n2"),  # half of them, and nobody of its node
        ([3, 0], 3, "n2"),  # half of them, of both nodes: launchers may have ended the others
        ([1], 1, "n1"),  # too few to tell
    ],
)
def test_at_the_collective_timeout_the_suspect_is_who_was_waited_for(attempt, accounts, rank, node):
    for order, one in enumerate(accounts):
        tell(attempt, one, "DistBackendError: [Rank 0] Timed out after 600 s", order)
    code, first = failure(attempt, 1, 1)
    assert (code, first.rank, first.node) == (1, rank, node)


def test_who_waits_longer_complains_of_those_who_left_first(attempt):
    tell(attempt, 0, "RuntimeError: Timed out waiting 30000ms for recv operation", 1)
    tell(attempt, 1, "RuntimeError: [gloo/tcp/pair.cc:553] Connection closed by peer [10.0.0.1]", 2)
    tell(attempt, 3, "RuntimeError: Connection reset by peer", 3)
    _, first = failure(attempt, 1, 1)
    assert (first.rank, first.node) == (2, "n2")
    attempt.rank_failure(0).unlink()
    _, first = failure(attempt, 1, 1)
    assert (first.rank, "closed by peer" in first.error) == (1, True)


def test_of_several_who_were_waited_for_all_are_named(attempt):
    for order, one in enumerate((0, 1)):
        tell(attempt, one, "DistBackendError: [Rank 0] Timed out after 600 s", order)
    _, first = failure(attempt, 1, 1)
    words = "the other ranks waited for it until the collective timeout, and for 1 rank more on n2"
    assert (first.error, first.rank) == (words, 2)


def killed_by_an_operator(attempt):
    """The time at which `soractl kill` began."""
    run = RunDir(attempt.path.parent.parent)
    EventLog(run, "kill").write(EventKind.STOP_REQUESTED, attempt=attempt.number)
    return read_events(run)[0].time_unix_s


def test_an_attempt_whose_processes_an_operator_killed_was_stopped(attempt):
    killed_by_an_operator(attempt)
    code, first = failure(attempt, None, None, lost={"n1": VANISHED, "n2": VANISHED})
    assert (code, first.error, first.stopped) == (143, "`soractl kill`", True)


def test_an_attempt_that_had_failed_before_it_was_killed_has_failed(attempt):
    at_s = killed_by_an_operator(attempt)
    for rank, error in enumerate(("Timed out after 60 s",) * 3):
        tell(attempt, rank, error, at_s - 5)
    code, first = failure(attempt, None, None, lost={"n1": VANISHED})
    assert (code, first.rank, first.stopped) == (1, 3, False)


def test_what_ranks_complain_of_after_a_kill_is_no_failure(attempt):
    at_s = killed_by_an_operator(attempt)
    tell(attempt, 1, "ConnectionError: closed by peer", at_s + 5)
    code, first = failure(attempt, 1, 1)
    assert (code, first.error) == (143, "`soractl kill`")


def test_a_kill_after_which_steps_went_on_is_not_why_a_node_is_lost(attempt):
    at_s = killed_by_an_operator(attempt)
    run = RunDir(attempt.path.parent.parent)
    run.beat(9, 100, attempt.number)
    os.utime(run.heartbeat, (at_s + 3600, at_s + 3600))
    assert failure(attempt, 0, None, lost={"n2": VANISHED}) == (1, Failure("n2", VANISHED))


def test_a_node_that_does_not_answer_amid_a_kill_is_lost(attempt):
    killed_by_an_operator(attempt)
    code, first = failure(attempt, 143, None, lost={"n2": "the node does not answer (x)"})
    assert (code, first.node, first.stopped) == (1, "n2", False)


def test_a_rank_of_a_node_without_any_account_is_suspected_first(attempt):
    nodes = tuple(Node(name) for name in ("n1", "n2", "n3"))
    record = replace(RECORD, nodes=nodes, ranks=(2, 2, 2))
    for order, one in enumerate((0, 2, 3)):
        tell(attempt, one, "DistBackendError: [Rank 0] Timed out after 600 s", order)
    states = [NodeState(node.name, 1) for node in nodes]
    first = settle(attempt, record, states, {}).first_failure
    words = "the other ranks waited for it until the collective timeout, and for 2 ranks more on "
    assert (first.error, first.rank, first.node) == (words + "n[1,3]", 4, "n3")


ODD = [
    {"exit_code": []},
    {"ended_unix_s": None},
    {"ended_unix_s": float("nan")},
    {"first_failure": []},
    {"first_failure": {"node": "n1", "error": None}},
    {"first_failure": {"node": "n1", "error": "boom", "traceback": -1}},
    {"first_failure": {"node": "n1", "error": "boom", "remedy": "x"}},
    {"first_failure": {"node": "n1", "error": "boom", "remedy": {"settings": None}}},
]


@pytest.mark.parametrize("odd", ODD)
def test_an_outcome_that_cannot_be_says_nothing(attempt, odd):
    good = {"exit_code": 1, "ended_unix_s": 5.0, "first_failure": None}
    write_json(attempt.exit, {**good, **odd})
    assert read_outcome(attempt) is None
