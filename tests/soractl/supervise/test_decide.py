from dataclasses import replace

import pytest

from soractl.runs.post_mortem import Failure
from soractl.supervise.decide import (
    Cause,
    CauseClass,
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
LOST = Cause("lost", CauseClass.HARDWARE, "no process is left", node="n2")
ERROR = Cause("crashed", CauseClass.PROGRAM, "ValueError: no", fingerprint="ValueError: no")


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


@pytest.mark.parametrize("kind", [CauseClass.REQUEST, CauseClass.DISK])
def test_what_no_restart_cures_is_given_up_at_once(kind):
    assert isinstance(decide(situation(replace(ERROR, kind=kind))), GiveUp)


def test_the_same_exception_at_the_same_step_twice_is_a_wall():
    twice = tuple(replace(one, step=812) for one in attempts(ERROR, ERROR))
    assert decide(situation(ERROR, attempts=twice)) == GiveUp(
        "twice the same at step 812: ValueError: no"
    )
    assert decide(situation(ERROR, ERROR)) == Restart(NODES)


def test_the_same_collective_at_the_same_step_twice_is_a_wall():
    hung = Cause("hung", CauseClass.PROGRAM, "rank 3 stands still", "n2", "all_reduce 1207")
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
    assert decide(situation(*mixed, ERROR)) == GiveUp("11 failures by program, more than 10")
    assert isinstance(decide(situation(*mixed, ERROR, lost)), Restart)


@pytest.mark.parametrize(
    ("state", "failure", "kind", "blamed"),
    [
        (State.LOST, Failure("n2", "no process is left"), CauseClass.HARDWARE, "n2"),
        (State.HUNG, Failure("n2", "no step for 92 s"), CauseClass.HARDWARE, None),
        (State.CRASHED, Failure("n2", "killed by SIGKILL", rank=3), CauseClass.HARDWARE, "n2"),
        (State.CRASHED, Failure("n2", "RuntimeError: CUDA error: x"), CauseClass.HARDWARE, "n2"),
        (State.CRASHED, Failure("n2", "Connection closed by peer"), CauseClass.HARDWARE, None),
        (State.CRASHED, Failure("n2", "ValueError: no"), CauseClass.PROGRAM, None),
        (State.CRASHED, Failure("n2", "OSError: No space left on device"), CauseClass.DISK, None),
        (State.CRASHED, Failure("n2", "HTTPError: 401 Client Error"), CauseClass.REQUEST, None),
        (State.CRASHED, Failure("n2", "x", remedy={"reset_data": True}), CauseClass.REQUEST, None),
        (State.CRASHED, Failure("n2", "x", remedy={"checkpoint": "c"}), CauseClass.PROGRAM, None),
    ],
)
def test_a_failure_belongs_to_a_class_and_a_node_is_blamed_only_for_its_own(
    state, failure, kind, blamed
):
    cause = cause_of(state, failure)
    assert (cause.kind, cause.node) == (kind, blamed)


def test_failures_of_hardware_are_never_the_same_except_for_a_collective():
    failure = Failure("n2", "no step for 92 s")
    assert cause_of(State.HUNG, failure).fingerprint == ""
    assert cause_of(State.HUNG, failure, "all_reduce 41").fingerprint == "all_reduce 41"


def test_the_trainers_remedy_names_the_checkpoint_to_resume_from():
    assert checkpoint_to_use(Failure("n2", "damaged", remedy={"checkpoint": "/c/1"})) == "/c/1"
    assert checkpoint_to_use(Failure("n2", "no")) is None
