from dataclasses import replace

import pytest

from soractl.diagnosis.signatures import CauseKind, Role
from soractl.diagnosis.why import UNKNOWN, CaseFile, explain
from soractl.runs.events import Event, EventKind
from soractl.runs.lost_nodes import VANISHED
from soractl.runs.post_mortem import Failure

RESET = "RuntimeError: gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:4"
TIMEOUT = "RuntimeError: Timed out waiting 120000ms for recv operation to complete"
OOM = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
TRACE = 'Traceback\n  File "/x/trainer/step.py", line 88, in run\n    boom()\nValueError: boom\n'
DATA_TRACE = TRACE.replace("/x/trainer/step.py", "/x/trainer/data/decode.py")
DIST_TRACE = TRACE.replace("/x/trainer/step.py", "/y/torch/distributed/distributed_c10d.py")
XID_79 = "2026-11-30T01:00:00,5+00:00 NVRM: Xid (PCI:0000:06:00): 79, GPU has fallen off the bus."
XID_31 = "2026-11-30T01:00:00,5+00:00 NVRM: Xid (PCI:0000:06:00): 31, MMU Fault"
OOM_KILL = "2026-11-30T01:00:00,5+00:00 Out of memory: Killed process 4711 (python)"


def account(rank, error, trace=TRACE, *, at=100.0):
    node = f"n{rank // 2 + 1}"
    return {"rank": rank, "node": node, "error": error, "traceback": trace, "time_unix_s": at}


def of(*accounts, **values):
    first = accounts[0] if accounts else None
    failure = Failure(first["node"], first["error"], first["rank"]) if first else None
    return CaseFile(**{"failure": failure, "accounts": accounts} | values)


def short(explanation):
    root = explanation.root
    return (
        *(explanation.cause, explanation.certainty),
        *((root.node, root.rank) if root else (None, None)),
    )


def hang(kind="lagging", ranks=(1,), nodes=("n1",), links=()):
    found = {"kind": kind, "ranks": list(ranks), "nodes": list(nodes), "where": ["a.py:1 f"]}
    return {"verdict": {**found, "text": "rank 1 never entered all_reduce 7"}, "links": list(links)}


def test_the_first_rank_that_does_not_only_complain_of_others_is_the_root():
    """Clocks of nodes differ, so the earliest account may be a cascade."""
    case = of(account(0, RESET, at=90.0), account(3, OOM, at=100.0), account(1, RESET, at=101.0))
    found = explain(case)
    assert short(found) == ("the memory of a GPU ran out", "sure", "n2", 3)
    assert [(one.role, one.rank) for one in found.others] == [
        (Role.CASCADE, 0),
        (Role.CASCADE, 1),
    ]
    assert "buckets.batch_size" in found.root.advice[0]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (of(account(0, RESET), account(1, RESET)), (UNKNOWN, CauseKind.UNKNOWN)),
        (of(account(0, "ValueError: boom")), ("sure", CauseKind.PROGRAM)),
        (of(account(0, "lr must be positive", None)), ("sure", CauseKind.REQUEST)),
        (of(account(0, "InvalidDataError: x", DATA_TRACE)), ("likely", CauseKind.DATA)),
        (of(account(0, "RuntimeError: odd words", DIST_TRACE)), (UNKNOWN, CauseKind.UNKNOWN)),
        (of(account(0, "OSError: [Errno 28] No space left")), ("sure", CauseKind.DISK)),
        (of(account(0, TIMEOUT), account(1, TIMEOUT)), (UNKNOWN, CauseKind.UNKNOWN)),
        (CaseFile(Failure("n1", "SIGTERM", stopped=True)), ("sure", CauseKind.OPERATOR)),
        (CaseFile(Failure("n2", VANISHED)), ("likely", CauseKind.HARDWARE)),
        (
            CaseFile(Failure("n2", "the node does not answer (unreachable: x)")),
            ("sure", CauseKind.HARDWARE),
        ),
        (CaseFile(Failure("n2", "killed by SIGSEGV", 3)), ("sure", CauseKind.PROGRAM)),
        (CaseFile(Failure("n2", "killed by SIGBUS", 3)), ("likely", CauseKind.PROGRAM)),
        (CaseFile(Failure("n2", "killed by SIGKILL; the kernel", 3)), ("likely", "unknown")),
        (CaseFile(Failure("n1", "`colossalai run` ended with exit code 1")), (UNKNOWN, "unknown")),
    ],
)
def test_each_end_has_its_class_and_unknown_is_an_answer(case, expected):
    found = explain(case)
    assert (found.certainty, found.kind) == expected


def test_an_exception_is_named_by_its_place():
    found = explain(of(account(2, "ValueError: boom 17")))
    assert short(found) == ("an exception in trainer/step.py:88 run", "sure", "n2", 2)
    assert found.fingerprint == "ValueError: boom N"


def test_a_killed_rank_with_the_kernels_word_for_it_ran_out_of_memory():
    failure = Failure("n2", "killed by SIGKILL; the kernel does that when memory runs out", 3)
    case = CaseFile(failure, [account(0, RESET)], kernel={"n2": [OOM_KILL], "n1": []})
    assert short(explain(case)) == (
        *("the kernel killed a process, since the node's memory ran out", "sure"),
        *("n2", 3),
    )
    elsewhere = replace(case, kernel={"n1": [OOM_KILL]})
    assert explain(elsewhere).cause == "a rank was killed; nothing says by whom"


def test_a_broken_gpu_is_the_root_of_the_errors_that_follow_from_it():
    case = of(account(0, "RuntimeError: CUDA error: unknown error"), kernel={"n1": [XID_79]})
    assert short(explain(case)) == ("a GPU fell off the bus (Xid 79)", "sure", "n1", None)
    other = of(account(0, "RuntimeError: CUDA error: unknown error"), kernel={"n2": [XID_79]})
    assert explain(other).certainty == "likely"
    lost = CaseFile(Failure("n1", VANISHED), kernel={"n1": [XID_79]})
    assert explain(lost).cause == "a GPU fell off the bus (Xid 79)"


def test_an_exception_that_no_gpu_throws_is_not_blamed_on_one():
    found = explain(of(account(0, "KeyError: 'text'"), kernel={"n1": [XID_79]}))
    assert found.kind is CauseKind.PROGRAM
    assert [one.role for one in found.others] == [Role.CONFIRMATION]


def test_the_programs_own_xid_only_confirms():
    words = "RuntimeError: CUDA error: an illegal memory access was encountered"
    found = explain(of(account(1, words), kernel={"n1": [XID_31]}))
    assert short(found) == ("a program's fault on a GPU", "likely", "n1", 1)
    assert [(one.role, one.kind) for one in found.others] == [
        (Role.CONFIRMATION, CauseKind.PROGRAM)
    ]


def test_a_timeout_has_the_culprit_of_the_evidence():
    found = explain(of(account(0, TIMEOUT), account(2, TIMEOUT), verdict=hang(), evidence="/e"))
    assert short(found) == ("the others waited for one rank", "sure", "n1", 1)
    assert found.root.text == "rank 1 never entered all_reduce 7; it was in a.py:1 f"
    assert found.evidence == "/e"


def test_without_evidence_the_rank_without_an_account_is_likely():
    failure = Failure("n2", "the other ranks waited for it until the collective timeout", 3)
    found = explain(CaseFile(failure, [account(0, TIMEOUT)]))
    assert short(found) == ("the others waited for one rank", "likely", "n2", 3)


def test_a_hang_that_was_seen_is_the_cause_of_the_kill_that_ended_it():
    failure = Failure("n1", "killed by SIGKILL; the kernel does that when memory runs out", 0)
    case = CaseFile(failure, verdict=hang(), stopped_by="`soractl kill`", stopped_unix_s=500.0)
    found = explain(case)
    assert found.cause == "the others waited for one rank"
    assert found.others[0].kind is CauseKind.OPERATOR


def test_a_symmetric_hang_is_a_link_where_one_loses_packets():
    link = {"node": "n1", "peer": "n3", "connections": 4}
    found = explain(CaseFile(None, verdict=hang("symmetric", (0, 1, 2), links=[link])))
    assert (found.cause, found.certainty) == ("packets are lost between nodes", "sure")
    assert found.root.text == "n1 -> n3"
    alone = explain(CaseFile(None, verdict=hang("symmetric", (0, 1, 2))))
    assert (alone.cause, alone.certainty) == ("all ranks hang together", "likely")


@pytest.mark.parametrize("kind", ["moving", "unseen", "gone"])
def test_a_verdict_that_names_no_hang_is_no_cause(kind):
    assert explain(CaseFile(None, verdict=hang(kind))).certainty == UNKNOWN


def test_an_operators_kill_is_the_cause_of_the_complaints_after_it():
    case = of(
        account(0, "EOFError: ", at=1000.0), stopped_by="`soractl kill`", stopped_unix_s=999.0
    )
    assert explain(case).kind is CauseKind.OPERATOR
    before = replace(case, stopped_unix_s=1100.0)
    assert explain(before).kind is CauseKind.PROGRAM


def test_a_log_speaks_where_no_rank_does():
    line = "bash: colossalai: command not found"
    failure = Failure("n2", "`colossalai run` ended with exit code 127")
    found = explain(CaseFile(failure, logs={"n2": [line]}))
    assert short(found) == ("a program is missing on the node", "sure", "n2", None)
    beside = explain(of(account(0, "ValueError: boom"), logs={"n2": [line]}))
    assert beside.kind is CauseKind.PROGRAM


def test_a_checkpoint_that_was_given_up_earlier_is_not_why_a_run_ended():
    line = "rank 0: checkpoint epoch0-global_step5 given up, training goes on: [Errno 28] No space"
    found = explain(of(account(1, "ValueError: boom"), logs={"n1": [line]}))
    assert found.kind is CauseKind.PROGRAM
    assert [one.cause for one in found.others] == ["a checkpoint could not be written"]


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (EventKind.HUNG, ("it hung, and no rank could be named", "sure", "n2", None)),
        (EventKind.LOST, ("a node was lost", "sure", "n2", None)),
    ],
)
def test_what_a_supervisor_saw_is_the_cause_of_its_own_kill(kind, cause):
    event = Event(time_unix_s=5, kind=kind, by="supervisor", text="no step for 90 s", node="n2")
    failure = Failure("n1", "killed by SIGKILL; the kernel does that when memory runs out", 0)
    assert short(explain(CaseFile(failure, watched=event))) == cause
    named = explain(CaseFile(failure, watched=event, verdict=hang()))
    assert named.cause == "the others waited for one rank"


def test_a_clock_that_is_wrong_only_confirms():
    clocks = {"n1": {"value": 0.2, "bound": 0.1}, "n2": {"value": -300.0, "bound": 0.1}}
    found = explain(of(account(0, TIMEOUT), verdict={**hang(), "clocks": clocks}))
    assert found.cause == "the others waited for one rank"
    last = found.others[-1]
    assert (last.role, last.node, last.text) == (
        *(Role.CONFIRMATION, "n2"),
        "-300.0 s beside this machine's",
    )


def test_a_job_that_went_back_into_the_queue_was_stopped_by_nobody():
    failure = Failure("n1", "SIGTERM", stopped=True)
    found = explain(CaseFile(failure, requeued="a time limit or a preemption was announced"))
    assert found.cause == "the queue: it goes on by itself"
    killed = CaseFile(failure, requeued="a time limit", stopped_by="`soractl kill`")
    assert explain(killed).cause == "it was stopped on purpose"
