import threading

import pytest

from soractl.supervise import lease as leases
from soractl.supervise.lease import Lease, LeaseLostError, read_holder


class Clock:
    """A monotonic clock that a test moves."""

    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def claim(tmp_path, clock):
    """Make claims on one lease."""
    return lambda: Lease(tmp_path / "supervisor.json", clock=clock, lease_s=30.0)


def test_one_of_many_takes_it(claim):
    claims = [claim() for _ in range(8)]
    taken = []
    threads = [threading.Thread(target=lambda c=c: taken.append(c.take())) for c in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]


def test_a_holder_that_shows_life_keeps_it(claim, clock):
    holder, other = claim(), claim()
    assert holder.take()
    for _ in range(10):
        clock.now_s += 20.0
        holder.renew("training", "")
        assert not other.take()
    assert read_holder(holder.path).state == "training"


def test_a_dead_holders_lease_is_taken_after_its_beat_stood_still(claim, clock):
    holder, other = claim(), claim()
    holder.take()
    assert not other.take()
    clock.now_s += 30.0
    assert not other.take()
    clock.now_s += 1.0
    assert other.take()
    with pytest.raises(LeaseLostError):
        holder.renew("training", "")
    assert read_holder(other.path).token == other.token


def test_two_who_want_a_dead_holders_lease_do_not_both_get_it(claim, clock):
    claim().take()
    others = [claim(), claim()]
    assert [other.take() for other in others] == [False, False]
    clock.now_s += 31.0
    assert [other.take() for other in others] == [True, False]


def test_a_lease_that_ended_is_free(claim):
    holder = claim()
    holder.take()
    holder.renew("finished", "", ended=True)
    assert claim().take()


def test_a_holder_frozen_between_reading_and_replacing_is_fenced(claim, clock, monkeypatch):
    holder, thief = claim(), claim()
    holder.take()
    thief.take()
    write = leases.write_json

    def frozen(path, values, **more):
        """The holder wakes up here, after its lease was taken, and writes its old token back."""
        monkeypatch.setattr(leases, "write_json", write)
        clock.now_s += 31.0
        assert thief.take()
        write(path, values, **more)

    monkeypatch.setattr(leases, "write_json", frozen)
    holder.renew("training", "")
    # Both believe for a moment, but only one of them can act from here on.
    with pytest.raises(LeaseLostError):
        thief.check()
    holder.check()
    assert read_holder(holder.path).token == holder.token


def test_a_folder_that_is_lost_for_a_while_loses_no_lease(claim, tmp_path):
    mine = claim()
    assert mine.take()
    folder = mine.path.parent
    folder.rename(tmp_path.parent / "lost")
    mine.renew("training", "")
    with pytest.raises(FileNotFoundError):
        mine.check()
    (tmp_path.parent / "lost").rename(folder)
    mine.check()
    mine.path.unlink()
    with pytest.raises(LeaseLostError):
        mine.renew("training", "")
