from soractl.supervise.step_clock import Limits, StepClock

LIMITS = Limits()


def after(steps, clock=None, every_s=2.0, phase="training"):
    """A clock after some steps of the same length; its first step came at 10 s."""
    clock = clock or StepClock(None, 0.0).at(10.0, 1, "first step")
    for _ in range(steps):
        clock = clock.at(clock.seen_s + every_s, clock.step + 1, phase)
    return clock


def test_the_time_to_the_first_step_is_no_step_time():
    clock = after(3)
    assert (clock.step, clock.steps_s, dict(clock.longest_s)) == (4, (2.0,) * 3, {"first step": 10})


def test_steps_that_were_missed_share_the_time():
    clock = after(0).at(18.0, 5, "training")
    assert clock.steps_s == (2.0,)


def test_a_look_without_a_new_step_changes_nothing():
    clock = after(1)
    assert clock.at(99.0, clock.step, "training") is clock
    assert clock.at(99.0, None, "training") is clock


def test_short_steps_have_the_least_limits_and_long_ones_multiples_of_p95():
    short, long = after(100), after(100, every_s=15.0)
    assert short.suspect_after_s("training", LIMITS) == 20.0
    assert short.hung_after_s("training", LIMITS) == 90.0
    assert long.suspect_after_s("training", LIMITS) == 75.0
    assert long.hung_after_s("training", LIMITS) == 120.0


def test_a_rare_long_step_does_not_raise_the_limits():
    clock = after(96)
    clock = after(4, clock, every_s=60.0)
    assert clock.p95_s == 2.0


def test_saves_and_validations_have_limits_of_their_own_that_are_learned():
    clock = after(10)
    assert clock.suspect_after_s("saving", LIMITS) == 300.0
    assert clock.suspect_after_s("validating", LIMITS) == 900.0
    saved = after(1, clock, every_s=70.0, phase="saving")
    assert saved.suspect_after_s("saving", LIMITS) == 210.0
    assert saved.steps_s == clock.steps_s
    quick = after(1, clock, every_s=3.0, phase="saving")
    assert quick.suspect_after_s("saving", LIMITS) == 20.0
    assert quick.hung_after_s("saving", LIMITS) == 90.0


def test_the_next_attempt_knows_how_long_starts_take():
    clock = after(5).next_attempt(1000.0)
    assert clock.step is None
    assert clock.age_s(1030.0) == 30.0
    assert clock.suspect_after_s("first step", LIMITS) == 300.0  # by chance it was a quick one
    slow = StepClock(None, 0.0).at(200.0, 1, "first step").next_attempt(1000.0)
    assert slow.suspect_after_s("first step", LIMITS) == 600.0
    assert StepClock(None, 0.0).suspect_after_s("first step", LIMITS) == 1800.0


def test_a_step_that_is_there_at_the_first_look_says_nothing_of_how_long_starts_take():
    clock = StepClock(None, 0.0).at(0.1, 57, None)
    assert (clock.step, clock.seen_s, dict(clock.longest_s)) == (57, 0.1, {})
    assert clock.next_attempt(9.0).suspect_after_s("first step", LIMITS) == 1800.0


def test_a_run_that_was_seen_to_go_on_has_its_time_anew():
    assert after(3).restarted(500.0).age_s(520.0) == 20.0


def test_time_in_which_the_watcher_did_not_run_is_no_age():
    assert after(1).shifted(90.0).age_s(12.0 + 95.0) == 5.0


def test_slow_is_half_as_long_again_over_ten_steps():
    clock = after(60)
    assert not after(3, clock, every_s=4.0).is_slow
    assert after(10, clock, every_s=4.0).is_slow
    assert not after(10, every_s=4.0).is_slow


def test_limits_end_before_the_ranks_own_timeout_ends_the_run():
    clock = StepClock(7, 0.0, steps_s=(30.0,) * 20, longest_s={"saving": 200.0})
    phases = ("training", "saving", "validating", "first step")

    def suspect_after_s(limits):
        return [clock.suspect_after_s(phase, limits) for phase in phases]

    assert suspect_after_s(LIMITS.within(120.0)) == [90.0, 90.0, 90.0, 1800.0]
    assert suspect_after_s(LIMITS.within(3600.0)) == [150.0, 600.0, 900.0, 1800.0]
    # without a second sign slow steps have their time
    assert clock.hung_after_s("training", LIMITS.within(120.0)) == 240.0
