from pathlib import Path

from soractl.diagnosis import examination, flight_recorder
from soractl.diagnosis.culprit import VerdictKind
from soractl.errors import Fault, FaultKind
from tests.soractl.diagnosis.test_culprit import mute, rank

Look = flight_recorder.Look


def test_it_looks_until_two_looks_in_a_row_agree(monkeypatch):
    states = [(rank(0, 5), rank(1, 5)), (rank(0, 6), rank(1, 5)), (rank(0, 6), rank(1, 5))]
    looks = [Look(ranks, float(i)) for i, ranks in enumerate(states)]
    remaining = iter(looks)
    monkeypatch.setattr(examination, "look", lambda *_, **__: next(remaining))
    found = examination.examine(Path(), None, None, pause_s=0)
    assert (found.first, found.second) == (looks[1], looks[2])
    assert (found.verdict.kind, found.verdict.ranks) == (VerdictKind.LAGGING, (1,))


def test_it_gives_up_while_collectives_go_on(monkeypatch):
    looks = iter([Look((rank(0, n), mute(1, "T")), float(n)) for n in range(1, 10)])
    monkeypatch.setattr(examination, "look", lambda *_, **__: next(looks))
    found = examination.examine(Path(), None, None, pause_s=0)
    assert found.verdict.kind is VerdictKind.MOVING
    assert found.second.taken_s == 4.0


def test_it_does_not_look_again_where_a_node_was_not_seen(monkeypatch):
    unseen = Look((rank(0, 5),), 0.0, {"n2": Fault(FaultKind.UNREACHABLE)})
    looks = iter([unseen])
    monkeypatch.setattr(examination, "look", lambda *_, **__: next(looks))
    found = examination.examine(Path(), None, None, pause_s=0)
    assert found.verdict.kind is VerdictKind.UNSEEN
