"""Verdict on a node's clock by the cluster's policy. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from soractl.cluster.settings import ClockPolicy
from soractl.health.clock import Measured, Step

GOOD, BAD, UNKNOWN = "good", "BAD", "unknown"


@dataclass(frozen=True)
class Verdict:
    """Good, BAD or unknown, the reasons, and what is worth knowing beside them."""

    level: str = UNKNOWN
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def judge(offset: Measured, steps: Sequence[Step], policy: ClockPolicy) -> Verdict:
    """BAD only where the bound leaves no doubt, or a step is as large as the policy forbids."""
    limit_s = policy.max_offset_ms / 1000
    reasons = [_step(step) for step in steps if _forbidden(step, policy)]
    notes = [_step(step) for step in steps if not _forbidden(step, policy)]
    if offset.surely_above(limit_s):
        way = "ahead of" if offset.value > 0 else "behind"
        reasons.insert(0, f"{abs(offset.value) * 1000:.1f} ms {way} this machine")
    if reasons:
        return Verdict(BAD, tuple(reasons), tuple(notes))
    if offset.maybe_above(limit_s):
        slow = f"known to {offset.bound * 1000:.1f} ms only, which leaves it open"
        return Verdict(UNKNOWN, (slow,), tuple(notes))
    return Verdict(GOOD, (), tuple(notes))


def _forbidden(step: Step, policy: ClockPolicy) -> bool:
    back, ahead = policy.max_backward_step_ms, policy.max_forward_step_ms
    limit_ms = back if step.size.value < 0 else ahead
    return limit_ms is not None and step.size.maybe_above(limit_ms / 1000)


def _step(step: Step) -> str:
    size, way = step.size, "back" if step.size.value < 0 else "forward"
    return f"stepped {way} by {abs(size.value) * 1000:.1f} ms"
