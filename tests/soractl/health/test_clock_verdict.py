import pytest

from soractl.cluster.settings import ClockPolicy
from soractl.health.clock import Measured, Step
from soractl.health.clock_verdict import Verdict, judge


def ms(value, bound=0.1):
    return Measured(value / 1000, bound / 1000)


NOT_TOLD = Verdict("unknown", ("known to 0.1 ms only, which leaves it open",))
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
