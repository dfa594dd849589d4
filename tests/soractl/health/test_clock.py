import random

import pytest

from soractl.cluster.settings import ClockPolicy
from soractl.health.clock import (
    ClockLook,
    Measured,
    Reading,
    RoundTrip,
    Step,
    Track,
    Verdict,
    against_most,
    judge,
    step_between,
)

MS = 1_000_000  # ns


def reading(unix_ns, boot_ns=None, width_ns=2000):
    boot_ns = unix_ns if boot_ns is None else boot_ns
    return Reading(unix_ns, boot_ns - width_ns // 2, boot_ns + width_ns // 2, boot_ns)


def probe(chance, truth_ns, at_ns=10**18):
    """A look over a network whose two ways take 0 to 20 ms each, unequal on the whole."""
    slow_up, slow_down = chance.uniform(0, 20 * MS), chance.uniform(0, 20 * MS)
    trips = []
    for number in range(8):
        up = round(slow_up + chance.uniform(0, 20 * MS))
        down = round(slow_down + chance.uniform(0, 20 * MS))
        sent = at_ns + number * 50 * MS
        trips.append(RoundTrip(sent, up + down, reading(sent + up + truth_ns)))
    return ClockLook(tuple(trips), at_ns * 1e-9)


def covered(estimate, seed=1, count=1000):
    """How many of so many probes have the truth within their bound."""
    chance, hits = random.Random(seed), 0
    for _ in range(count):
        truth_ns = round(chance.uniform(-500 * MS, 500 * MS))
        found = estimate(probe(chance, truth_ns))
        hits += abs(found.value - truth_ns * 1e-9) <= found.bound + 1e-6  # a double of unix time
    return hits


def test_the_bound_covers_the_truth_in_1000_probes_with_jitter_and_asymmetry():
    assert covered(lambda look: look.offset) == 1000


def all_the_way_up(look):
    best = min(look.trips, key=lambda trip: trip.took_ns)
    return Measured((best.node.unix_ns - best.sent_unix_ns) * 1e-9, best.took_ns * 0.5e-9)


def mean_of_all(look):
    offsets = [trip.node.unix_ns - trip.sent_unix_ns - trip.took_ns / 2 for trip in look.trips]
    return Measured(sum(offsets) / 8 * 1e-9, min(trip.took_ns for trip in look.trips) * 0.25e-9)


@pytest.mark.parametrize("estimate", [all_the_way_up, mean_of_all])
def test_a_wrong_estimator_does_not_pass_that_test(estimate):
    assert covered(estimate) < 990


def test_the_bound_is_no_larger_than_half_the_shortest_round_trip():
    look = probe(random.Random(2), 0)
    assert look.offset.bound == min(trip.took_ns for trip in look.trips) * 0.5e-9


def look_at(seconds, *, off_s=0.0, boot_s=None, width_ns=2000, boot_id="a", trip_ns=100_000):
    """A look by which the node is ahead by `off_s`; its boot clock is right."""
    sent = round(seconds * 1e9)
    boot = round((boot_s if boot_s is not None else seconds) * 1e9)
    node = reading(sent + trip_ns // 2 + round(off_s * 1e9), boot + trip_ns // 2, width_ns)
    return ClockLook((RoundTrip(sent, trip_ns, node),) * 2, seconds, boot_id)


@pytest.mark.parametrize("size_s", [-0.010, 0.010, -3600.0, 0.35])
def test_a_step_is_seen_at_the_next_look_with_its_sign_size_and_time(size_s):
    track = Track()
    track.add(look_at(1000))
    track.add(look_at(1005, off_s=size_s))
    [step] = track.steps
    assert step.size.value == pytest.approx(size_s, abs=1e-6)
    assert step.size.bound == pytest.approx(2e-6)
    assert step.unix_s == pytest.approx(1005 + size_s, abs=0.001)


def test_no_step_is_invented_in_1000_quiet_looks_of_a_busy_node():
    chance, track = random.Random(3), Track()
    for number in range(1000):
        width_ns = round(chance.choice([2000, 40_000, 8 * MS, 60 * MS]))
        sent = number * 5 * 10**9
        begin = sent + 10_000
        # Realtime was read somewhere between the two readings of the boot clock.
        unix = begin + round(chance.uniform(0, width_ns))
        node = Reading(unix, begin, begin + width_ns, begin + width_ns)
        track.add(ClockLook((RoundTrip(sent, width_ns + 20_000, node),), number * 5.0))
    assert track.steps == []


def test_a_step_smaller_than_the_doubt_about_it_is_no_step():
    before, after = reading(0, 0, 30 * MS), reading(10 * MS, 0, 30 * MS)
    assert step_between(before, after) is None
    step = step_between(reading(0, 0), reading(10 * MS, 0))
    assert (step.size.value, step.size.bound) == pytest.approx((0.01, 2e-6))


def test_a_slewed_clock_has_no_step_and_its_drift_is_known_within_a_bound():
    track = Track()
    for number in range(4):
        seconds = 100.0 * number
        ahead = 50e-6 * seconds  # 50 ppm; the boot clock is slewed as well
        track.add(look_at(seconds, off_s=ahead, boot_s=seconds + ahead))
    drift = track.drift_ppm
    assert track.steps == []
    assert abs(drift.value - 50) <= drift.bound
    assert drift.bound == pytest.approx(2 * 50e-6 / 300 * 1e6)


def test_drift_begins_anew_after_a_step():
    track = Track()
    for seconds, off_s in ((0, 0.0), (10, 0.5), (20, 0.5)):
        track.add(look_at(seconds, off_s=off_s))
    assert len(track.steps) == 1
    assert track.drift_ppm.value == pytest.approx(0, abs=0.01)


def test_a_reboot_is_no_step():
    track = Track()
    track.add(look_at(1000))
    track.add(look_at(1005, boot_s=3, boot_id="b"))
    assert track.steps == []
    assert track.drift_ppm is None


def test_where_most_nodes_agree_this_machine_is_the_odd_one():
    ahead = [Measured(0.3 + number * 1e-4, 1e-3) for number in range(5)]
    assert against_most(ahead, 0.05).value == pytest.approx(-0.3002)
    assert against_most([Measured(0.3, 1e-3), *[Measured(0.0, 1e-3)] * 4], 0.05) is None
    assert (
        against_most([Measured(0.3, 1e-3), Measured(-0.3, 1e-3), Measured(0, 1e-3)], 0.05) is None
    )
    assert against_most(ahead[:2], 0.05) is None


def ms(value, bound=0.1):
    return Measured(value / 1000, bound / 1000)


BACK, AHEAD = Step(ms(-10), 0), Step(ms(350), 0)
CASES = {
    "in time": (ms(0.4), (), Verdict("good")),
    "ahead": (ms(350), (), Verdict("BAD", ("350.0 ms ahead of this machine",))),
    "behind": (ms(-350), (), Verdict("BAD", ("350.0 ms behind this machine",))),
    "at the limit": (
        ms(50.05),
        (),
        Verdict("unknown", ("known to 0.1 ms only, which leaves it open",)),
    ),
    "too slow to tell": (
        ms(3, 80),
        (),
        Verdict("unknown", ("known to 80.0 ms only, which leaves it open",)),
    ),
    "far off, whatever the bound": (
        ms(300, 80),
        (),
        Verdict("BAD", ("300.0 ms ahead of this machine",)),
    ),
    "stepped back": (ms(0), (BACK,), Verdict("BAD", ("stepped back by 10.0 ms",))),
    "stepped back a little": (
        ms(0),
        (Step(ms(-4), 0),),
        Verdict("good", (), ("stepped back by 4.0 ms",)),
    ),
    "stepped forward": (ms(0), (AHEAD,), Verdict("good", (), ("stepped forward by 350.0 ms",))),
}


@pytest.mark.parametrize("name", CASES)
def test_the_usual_policy(name):
    offset, steps, verdict = CASES[name]
    assert judge(offset, steps, ClockPolicy()) == verdict


def test_a_policy_that_forbids_steps_forward():
    policy = ClockPolicy(max_forward_step_ms=100)
    assert judge(ms(0), (AHEAD,), policy).level == "BAD"
