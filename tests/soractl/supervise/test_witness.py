import time

import pytest

from soractl.diagnosis.flight_recorder import Look, RankLook
from soractl.supervise import witness as witnesses
from soractl.supervise.observe import Verdict
from soractl.supervise.states import State
from soractl.supervise.supervisor import Found
from soractl.supervise.witness import Witness, evidence_of


@pytest.fixture
def witness(monkeypatch):
    """A witness whose ranks answer with the number of the test, over a clock of looks."""

    def look(attempt, record, remote):
        witness.asked += 1
        ranks = tuple(
            RankLook(
                rank=rank, node="n1", pid=1, answered=True, enqueued={"host:0": witness.number}
            )
            for rank in (0, 1)
        )
        return Look(ranks, taken_s=10.0 * witness.asked)

    monkeypatch.setattr(witnesses, "look", look)
    monkeypatch.setattr(witnesses, "EVERY_S", 0.0)
    witness = Witness(None, None, None)
    witness.asked, witness.number = 0, 7
    return witness


def asked(witness, times, age_s=60.0):
    """The sign after so many more looks."""
    end, limit = witness.asked + times, time.monotonic() + 20
    while witness.asked < end and time.monotonic() < limit:
        witness.sign(age_s)
        time.sleep(0.01)
    time.sleep(0.05)
    return witness.sign(age_s)


def test_a_running_training_is_not_asked(witness):
    assert [witness.sign(age_s) for age_s in (None, 0.5, 4.9)] == [""] * 3
    assert witness.asked == 0


def test_collectives_that_stand_still_for_twenty_seconds_are_a_sign(witness):
    assert asked(witness, 1) == ""
    assert asked(witness, 3) == "collectives stand still"


def test_collectives_that_go_on_are_none(witness):
    for number in range(5):
        witness.number = number
        assert asked(witness, 1) == ""


def test_a_step_ends_the_suspicion(witness):
    assert asked(witness, 4) == "collectives stand still"
    assert witness.sign(0.1) == ""
    assert asked(witness, 1) == ""


def test_only_a_hang_needs_the_ranks_evidence():
    for state in (State.CRASHED, State.LOST):
        assert evidence_of(None, None, None, Verdict(state)) == Found()
