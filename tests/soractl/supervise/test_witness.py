import threading
import time

import pytest

from soractl.diagnosis.flight_recorder import Look, RankLook
from soractl.supervise import witness as witnesses
from soractl.supervise.observe import Verdict
from soractl.supervise.states import State
from soractl.supervise.supervisor import Found
from soractl.supervise.witness import Answers, Witness, evidence_of, signs
from tests.nccl_hangs import look, power, ras_reports, unpack
from tests.waiting import wait_for

COLLECTIVES = "collectives stand still"
COUNTS = "NCCL's counts stand still"
POWER = "the GPUs' power is flat and low"


@pytest.fixture
def witness(monkeypatch):
    """A witness whose ranks answer with the number of the test, over a clock of looks."""

    def ask():
        witness.asked += 1
        ranks = tuple(
            RankLook(
                rank=rank, node="n1", pid=1, answered=True, enqueued={"host:0": witness.number}
            )
            for rank in (0, 1)
        )
        return Answers(Look(ranks, taken_s=10.0 * witness.asked))

    monkeypatch.setattr(witnesses, "EVERY_S", 0.0)
    witness = Witness(ask)
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


def test_an_answer_that_failed_is_an_error_once(witness):
    ask, witness._ask_all = witness._ask_all, lambda: 1 / 0
    witness.sign(60.0)
    wait_for(witness._asking.done)
    with pytest.raises(ZeroDivisionError):
        witness.sign(60.0)
    witness._ask_all = ask
    assert asked(witness, 4) == "collectives stand still"


def test_an_answer_that_was_under_way_when_a_step_came_is_of_no_stall(witness):
    go_on = threading.Event()
    ask = witness._ask_all
    answered = []

    def late():
        go_on.wait(20)
        answered.append(ask())
        return answered[-1]

    witness._ask_all = late
    witness.sign(60.0)
    assert witness.sign(0.1) == ""
    witness._ask_all = ask
    go_on.set()
    wait_for(lambda: answered)
    assert asked(witness, 2) == ""
    assert answered[0] not in witness._answers


def test_only_a_hang_needs_the_ranks_evidence():
    for state in (State.CRASHED, State.LOST):
        assert evidence_of(None, None, None, Verdict(state)) == Found()


def answers_of(hang):
    """All witnesses' answers in a hang on two GPUs, one for each sample of the power."""
    samples, reports = power(hang), ras_reports(hang)
    times = [one.taken_s for one in samples if one.gpu == "0"]
    found = []
    for time_s in times:
        report = reports[0 if time_s == times[0] else 1]
        now = tuple(one for one in samples if time_s <= one.taken_s < time_s + 1)
        ras = (time_s, report) if report else None
        found.append(Answers(look(hang / "second.json", time_s), now, ras))
    return found


@pytest.fixture(scope="module")
def hangs(tmp_path_factory):
    return {hang.name: answers_of(hang) for hang in unpack(tmp_path_factory.mktemp("hangs"))}


def test_in_hangs_on_real_gpus_up_to_three_witnesses_agree(hangs):
    """A stopped process answers RAS neither; while a save hangs the GPUs rest."""
    all_three = ", ".join((COLLECTIVES, COUNTS, POWER))
    assert {name: signs(answers) for name, answers in hangs.items()} == {
        **dict.fromkeys(hangs, all_three),
        "03-stop": f"{COLLECTIVES}, {POWER}",
        "04-thread": f"{COLLECTIVES}, {COUNTS}",
        "09-read": f"{COLLECTIVES}, {COUNTS}",
    }


def test_power_is_a_sign_where_ranks_cannot_be_asked(hangs):
    """Nobody who answers: ssh to a node is refused while nvidia-smi of the others answers."""
    unseen = [
        Answers(Look((), one.look.taken_s, {"n2": None}), one.power) for one in hangs["01-gc"]
    ]
    assert signs(unseen) == POWER


def test_no_witness_is_believed_while_collectives_go_on(hangs):
    going_on = [
        Answers(Look((RankLook(rank=0, node="n1", answered=True, enqueued={"host:0": n}),),
                one.look.taken_s), one.power, one.ras)
        for n, one in enumerate(hangs["01-gc"])
    ]  # fmt: skip
    assert signs(going_on) == ""
