"""Clock of a node beside this machine's: offset with a bound that holds, steps, drift, verdict.

Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from soractl.cluster.settings import ClockPolicy

LEAST_STEP_S = 0.001  # what is smaller is no step that anybody suffers from
NS = 1e-9
GOOD, BAD, UNKNOWN = "good", "BAD", "unknown"


@dataclass(frozen=True)
class Measured:
    """A value in seconds (or ppm) and how far from it the truth may be.

    >>> Measured(0.0124, 0.0003).surely_above(0.01)
    True
    """

    value: float
    bound: float

    def surely_above(self, limit: float) -> bool:
        """The size is above a limit, whatever the truth within the bound is."""
        return abs(self.value) - self.bound > limit

    def maybe_above(self, limit: float) -> bool:
        """The size is above a limit for some truth within the bound."""
        return abs(self.value) + self.bound > limit


@dataclass(frozen=True)
class Reading:
    """The clocks of one machine at one moment, in ns; realtime lies between the boot clock's two.

    The boot clock follows what a daemon slews, but no step; the raw clock follows neither.
    """

    unix_ns: int
    boot_before_ns: int
    boot_after_ns: int
    raw_ns: int | None = None  # unknown where there is no python3

    @property
    def width_ns(self) -> int:
        return self.boot_after_ns - self.boot_before_ns


@dataclass(frozen=True)
class RoundTrip:
    """A question to a node and its answer: sent at `sent_unix_ns` by this machine's clock."""

    sent_unix_ns: int
    took_ns: int
    node: Reading


@dataclass(frozen=True)
class ClockLook:
    """The round trips of one look at a node, and when it was, by this machine's monotonic clock."""

    trips: tuple[RoundTrip, ...]
    at_s: float
    boot_id: str = ""

    @property
    def offset(self) -> Measured:
        """Seconds by which the node is ahead, by the shortest round trip.

        The node read its clock at some moment between question and answer, so half the round
        trip bounds the error, however unequal the two ways are (Cristian, 1989).
        """
        best = min(self.trips, key=lambda trip: trip.took_ns)
        middle = best.sent_unix_ns + best.took_ns / 2
        return Measured((best.node.unix_ns - middle) * NS, best.took_ns / 2 * NS)

    @property
    def sharpest(self) -> Reading:
        """The reading in which nothing came between the clocks."""
        return min((trip.node for trip in self.trips), key=lambda reading: reading.width_ns)


@dataclass(frozen=True)
class Step:
    """A jump of a node's realtime between two looks; the time is the node's, after the step."""

    size: Measured
    unix_s: float


def step_between(before: Reading, after: Reading) -> Step | None:
    """The step of realtime against the boot clock, which needs no network; None where none is."""

    def moved(reading: Reading) -> int:  # twice, so that it stays a whole number
        return 2 * reading.unix_ns - reading.boot_before_ns - reading.boot_after_ns

    size = (moved(after) - moved(before)) / 2 * NS
    measured = Measured(size, (before.width_ns + after.width_ns) / 2 * NS)
    return Step(measured, after.unix_ns * NS) if measured.surely_above(LEAST_STEP_S) else None


@dataclass
class Track:
    """The looks at one node, oldest first, and the steps between them."""

    looks: list[ClockLook] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def add(self, look: ClockLook) -> None:
        """A further look; what was before a reboot is no longer compared."""
        if self.looks and self.looks[-1].boot_id != look.boot_id:
            self.looks.clear()
        if self.looks and (step := step_between(self.looks[-1].sharpest, look.sharpest)):
            self.steps.append(step)
            self.looks.clear()  # so that drift is reckoned from here on
        self.looks.append(look)
        del self.looks[1:-1]

    @property
    def drift_ppm(self) -> Measured | None:
        """Microseconds a second by which the node gains on this machine, since the last step."""
        for first, last in pairwise(self.looks):
            seconds = last.at_s - first.at_s
            a, b = first.offset, last.offset
            return Measured(
                (b.value - a.value) / seconds * 1e6, (a.bound + b.bound) / seconds * 1e6
            )
        return None

    @property
    def slew_ppm(self) -> float | None:
        """Microseconds a second by which the node's daemon speeds its clock up."""
        for first, last in pairwise(look.sharpest for look in self.looks):
            if first.raw_ns is not None and last.raw_ns is not None:
                return ((last.unix_ns - first.unix_ns) / (last.raw_ns - first.raw_ns) - 1) * 1e6
        return None


def against_most(offsets: Sequence[Measured], limit_s: float) -> Measured | None:
    """This machine's own offset from most nodes, where they agree and it is the odd one."""
    if len(offsets) < 3:
        return None
    middle = sorted(offsets, key=lambda offset: offset.value)[len(offsets) // 2]
    agreeing = [o for o in offsets if abs(o.value - middle.value) <= o.bound + middle.bound + 0.01]
    if len(agreeing) * 2 > len(offsets) and middle.surely_above(limit_s):
        return Measured(-middle.value, middle.bound)
    return None


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
