from dataclasses import replace

import pytest

from soractl.diagnosis.signatures import CauseKind
from soractl.diagnosis.why import CaseFile, explain
from soractl.runs.post_mortem import Failure
from soractl.supervise.decide import (
    BUDGET,
    Cause,
    GiveUp,
    PastAttempt,
    Restart,
    Situation,
    Wait,
    cause_of,
    checkpoint_to_use,
    decide,
)
from soractl.supervise.states import State

NODES = ("n1", "n2", "n3")
LOST = Cause("lost", CauseKind.HARDWARE, "no process is left", node="n2")
ERROR = Cause("crashed", CauseKind.PROGRAM, "ValueError: no", fingerprint="ValueError: no")


def attempts(*causes, apart_s=3600.0, step=10, new_checkpoint=True):
    """Failed attempts, one after the other; each step is another one."""
    return tuple(
        PastAttempt(
            number=i + 1,
            started_unix_s=i * apart_s,
            ended_unix_s=(i + 0.9) * apart_s,
            cause=cause,
            step=step + i,
            new_checkpoint=new_checkpoint,
        )
        for i, cause in enumerate(causes)
    )


def situation(*causes, **changes):
    return replace(Situation(attempts=attempts(*causes), nodes=NODES), **changes)


def test_a_first_failure_is_started_again_on_the_same_nodes():
    assert decide(situation(ERROR)) == Restart(NODES)


def test_a_spare_takes_the_place_of_a_node_that_does_not_answer():
    found = decide(situation(LOST, spares=("s1", "s2"), unusable={"n2": "no answer"}))
    assert found == Restart(("n1", "s1", "n3"))


def test_a_spare_that_does_not_answer_is_passed_over():
    unusable = {"n2": "no answer", "s1": "no answer"}
    found = decide(situation(LOST, spares=("s1", "s2"), unusable=unusable))
    assert found == Restart(("n1", "s2", "n3"))


def test_without_a_spare_it_waits_unless_fewer_nodes_are_allowed():
    lost = situation(LOST, unusable={"n2": "no answer"})
    assert decide(lost) == Wait("2 of 3 nodes are usable (n2: no answer)")
    assert decide(replace(lost, min_nodes=2)) == Restart(("n1", "n3"))


def test_two_strikes_set_a_node_apart():
    found = decide(situation(LOST, spares=("s1",), strikes={"n2": 2}))
    assert found == Restart(("n1", "s1", "n3"), {"n2": "2 strikes within a day"})
    assert decide(situation(LOST, spares=("s1",), strikes={"n2": 1})) == Restart(NODES)


def test_a_node_with_strikes_is_kept_where_the_run_cannot_go_on_without_it():
    assert decide(situation(LOST, strikes={"n2": 2})) == Restart(NODES)


def test_two_of_the_last_three_short_attempts_set_a_node_apart():
    short = attempts(LOST, ERROR, LOST, apart_s=500.0)
    found = decide(situation(LOST, attempts=short, min_nodes=2, most_starts=9))
    reason = "to blame for 2 of the last 3 short attempts"
    assert found == Restart(("n1", "n3"), {"n2": reason})
    long = attempts(LOST, ERROR, LOST)
    assert decide(situation(LOST, attempts=long, min_nodes=2)) == Restart(NODES)


def test_a_quarantined_node_is_not_started_on():
    found = decide(situation(ERROR, quarantined=frozenset({"n1"}), min_nodes=1))
    assert found == Restart(("n2", "n3"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (CauseKind.REQUEST, "no restart cures this: ValueError: no"),
        (CauseKind.DISK, "the disk is full: ValueError: no"),
        (CauseKind.OPERATOR, "it was stopped on purpose: ValueError: no"),
    ],
)
def test_what_no_restart_cures_is_given_up_at_once(kind, reason):
    assert decide(situation(replace(ERROR, kind=kind))) == GiveUp(reason)


@pytest.mark.parametrize("kind", [CauseKind.REQUEST, CauseKind.DISK])
def test_what_is_only_likely_is_tried_once_more(kind):
    likely = replace(ERROR, kind=kind, is_sure=False)
    assert decide(situation(likely)) == Restart(NODES)


@pytest.mark.parametrize("kind", [CauseKind.UNKNOWN, CauseKind.NETWORK, CauseKind.DATA])
def test_each_kind_has_a_budget_of_its_own(kind):
    spent = replace(ERROR, kind=kind)
    others = [replace(LOST, node=None)] * 60
    within = [spent] * BUDGET[kind]
    assert isinstance(decide(situation(*others, *within)), Restart)
    reason = f"{BUDGET[kind] + 1} failures of kind {kind}, more than {BUDGET[kind]}"
    assert decide(situation(*others, *within, spent)) == GiveUp(reason)


def test_the_same_exception_at_the_same_step_twice_is_a_wall():
    twice = tuple(replace(one, step=812) for one in attempts(ERROR, ERROR))
    assert decide(situation(ERROR, attempts=twice)) == GiveUp(
        "twice the same at step 812: ValueError: no"
    )
    assert decide(situation(ERROR, ERROR)) == Restart(NODES)


def test_the_same_collective_at_the_same_step_twice_is_a_wall():
    hung = Cause("hung", CauseKind.PROGRAM, "rank 3 stands still", "n2", "all_reduce 1207")
    twice = tuple(replace(one, step=812) for one in attempts(hung, hung))
    assert isinstance(decide(situation(hung, attempts=twice)), GiveUp)
    unknown = tuple(
        replace(one, cause=replace(one.cause, fingerprint="")) for one in twice
    )  # fmt: skip
    assert isinstance(decide(situation(hung, attempts=unknown)), Restart)


def test_no_new_checkpoint_in_three_attempts_is_a_wall():
    three = attempts(LOST, ERROR, LOST, new_checkpoint=False)
    assert decide(situation(LOST, attempts=three)) == GiveUp(
        "no new complete checkpoint in 3 attempts"
    )
    assert isinstance(decide(situation(LOST, attempts=three[1:])), Restart)


def test_five_starts_in_half_an_hour_are_a_storm():
    storm = attempts(*[LOST] * 5, apart_s=300.0)
    assert decide(situation(LOST, attempts=storm)) == GiveUp("5 starts within 30 minutes")
    assert isinstance(decide(situation(LOST, attempts=storm, most_starts=6)), Restart)


def test_hardware_does_not_use_up_the_budget_of_program_errors():
    lost = replace(LOST, node=None)
    mixed = (*[lost] * 30, *[ERROR] * 10)
    assert isinstance(decide(situation(*mixed)), Restart)
    assert decide(situation(*mixed, ERROR)) == GiveUp("11 failures of kind program, more than 10")
    assert isinstance(decide(situation(*mixed, ERROR, lost)), Restart)


def account(error, trace="Traceback", remedy=None):
    return {
        "rank": 3,
        "node": "n2",
        "error": error,
        "traceback": trace,
        "remedy": remedy,
        "time_unix_s": 5.0,
    }


def hang(**collective):
    found = {"kind": "lagging", "ranks": [3], "nodes": ["n2"], "where": [], "text": "rank 3 waits"}
    return {"verdict": {**found, "collective": collective}}


SETTINGS, EARLIER = {"reset_data": True}, {"checkpoint": "c"}


@pytest.mark.parametrize(
    ("state", "error", "case", "kind", "blamed"),
    [
        (State.LOST, "the node does not answer (x)", {}, CauseKind.HARDWARE, "n2"),
        (State.HUNG, "no step for 92 s", {}, CauseKind.UNKNOWN, None),
        (State.CRASHED, "killed by SIGKILL", {}, CauseKind.UNKNOWN, "n2"),
        (State.CRASHED, "killed by SIGSEGV", {}, CauseKind.PROGRAM, "n2"),
        *[
            (State.CRASHED, error, {"accounts": [account(error)]}, kind, blamed)
            for error, kind, blamed in (
                ("RuntimeError: CUDA error: uncorrectable ECC", CauseKind.HARDWARE, "n2"),
                ("Connection closed by peer", CauseKind.UNKNOWN, None),
                ("ValueError: no", CauseKind.PROGRAM, None),
                ("OSError: No space left on device", CauseKind.DISK, None),
                ("HTTPError: 401 Client Error", CauseKind.REQUEST, None),
            )
        ],
        (State.CRASHED, "x", {"accounts": [account("x", remedy=SETTINGS)]}, "request", None),
        (State.CRASHED, "x", {"accounts": [account("x", remedy=EARLIER)]}, "data", None),
    ],
)
def test_the_cause_is_the_one_that_why_shows_and_a_node_is_blamed_only_for_its_own(
    state, error, case, kind, blamed
):
    failure = Failure("n2", error, 3)
    found = explain(CaseFile(failure, **case))
    cause = cause_of(state, failure, found)
    assert (cause.kind, cause.node, cause.name) == (kind, blamed, found.cause if found.root else "")
    assert cause.text == ("rank 3: " if found.root is None or found.root.rank else "") + error


def test_failures_of_hardware_are_never_the_same():
    failure = Failure("n2", "the node does not answer (x)")
    assert cause_of(State.LOST, failure, explain(CaseFile(failure))).fingerprint == ""


def test_hangs_in_one_collective_are_the_same_whatever_its_number():
    """Numbers begin again with each attempt."""
    failure = Failure("n2", "no step for 92 s")
    fingerprints = {
        cause_of(State.HUNG, failure, explain(CaseFile(failure, verdict=verdict))).fingerprint
        for number in (41, 7)
        for verdict in [hang(name="all_reduce", number=number, description="default_pg")]
    }
    assert fingerprints == {"all_reduce of the default_pg group"}
    unnamed = {"verdict": {**hang()["verdict"], "collective": None}}
    found = explain(CaseFile(failure, verdict=unnamed))
    assert cause_of(State.HUNG, failure, found).fingerprint == ""


def test_exceptions_are_the_same_whatever_their_numbers():
    failure = Failure("n2", "KeyError: 17", 3)
    found = explain(CaseFile(failure, [account("KeyError: 17")]))
    assert cause_of(State.CRASHED, failure, found).fingerprint == "KeyError: N"


def test_the_trainers_remedy_names_the_checkpoint_to_resume_from():
    assert checkpoint_to_use(Failure("n2", "damaged", remedy={"checkpoint": "/c/1"})) == "/c/1"
    assert checkpoint_to_use(Failure("n2", "no")) is None
