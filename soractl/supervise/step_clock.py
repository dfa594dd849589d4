"""Step clock: how long a run has gone without a step, and how long that is normal. Pure.

All times are seconds of one monotonic clock, the watcher's own.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Phase = Literal["starting", "first step", "training", "saving", "validating"]

KEPT_STEPS = 100
OF_TIMEOUT = 0.75
SLOW_RECENT = 10
SLOW_FACTOR = 1.5


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds without a step before a run is suspect, and before it counts as hung."""

    suspect_s: float = 20.0  # and with a second sign hung
    suspect_p95: float = 5.0
    alone_s: float = 90.0  # hung without a second sign
    alone_p95: float = 8.0
    starting_s: float = 180.0  # nodes wait two minutes for each other
    first_step_s: float = 1800.0  # weights from a slow disk, compiled kernels
    first_step_least_s: float = 300.0  # however quick past ones were: caches are warm by chance
    saving_s: float = 300.0
    validating_s: float = 900.0
    learned: float = 3.0  # times the longest that was seen of a phase
    most_s: float = math.inf  # for what ends before the ranks' own timeout does

    def within(self, collective_timeout_s: float) -> "Limits":
        """Limits by which a run is looked at before its ranks' own timeout ends it."""
        return replace(self, most_s=OF_TIMEOUT * collective_timeout_s)


@dataclass(frozen=True)
class StepClock:
    """The last step, when it was first seen, and how long steps and phases took so far."""

    step: int | None
    seen_s: float
    steps_s: tuple[float, ...] = ()
    longest_s: Mapping[str, float] = field(default_factory=dict)  # by phase

    def at(self, now_s: float, step: int | None, phase: Phase | None) -> "StepClock":
        """The clock after a look; `phase` is the one in which the time until now was spent.

        None at the first look: a step that is there already says nothing of how long it took.
        """
        if step is None or step == self.step:
            return self
        took_s = now_s - self.seen_s
        moved = replace(self, step=step, seen_s=now_s)
        if phase is None:
            return moved
        if self.step is None or phase != "training":
            spent = "first step" if self.step is None else phase
            longest = max(took_s, self.longest_s.get(spent, 0.0))
            return replace(moved, longest_s={**self.longest_s, spent: longest})
        each_s = took_s / max(1, step - self.step)
        return replace(moved, steps_s=(*self.steps_s, each_s)[-KEPT_STEPS:])

    def shifted(self, gap_s: float) -> "StepClock":
        """The clock of a watcher that did not run for a while: that time is nobody's fault."""
        return replace(self, seen_s=self.seen_s + gap_s)

    def restarted(self, now_s: float) -> "StepClock":
        """The clock of a run that was seen to go on, though no step has ended."""
        return replace(self, seen_s=now_s)

    def next_attempt(self, now_s: float) -> "StepClock":
        """The clock of the next attempt, which knows how long phases took in this one."""
        return StepClock(None, now_s, self.steps_s, self.longest_s)

    def age_s(self, now_s: float) -> float:
        """Seconds since the last step, or since the attempt began."""
        return now_s - self.seen_s

    @property
    def p95_s(self) -> float:
        """The 95th percentile of the last steps, 0 before the first."""
        ordered = sorted(self.steps_s)
        return ordered[int(0.95 * (len(ordered) - 1) + 0.5)] if ordered else 0.0

    @property
    def is_slow(self) -> bool:
        """The last steps took much longer than those before."""
        if len(self.steps_s) < 5 * SLOW_RECENT:
            return False
        usual_s = statistics.median(self.steps_s)
        return statistics.median(self.steps_s[-SLOW_RECENT:]) > SLOW_FACTOR * usual_s

    def suspect_after_s(self, phase: Phase, limits: Limits) -> float:
        """Seconds without a step after which a run is suspect; with a second sign, hung."""
        steps_s = max(limits.suspect_s, limits.suspect_p95 * self.p95_s)
        return max(min(steps_s, limits.most_s), self._phase_limit_s(phase, limits))

    def hung_after_s(self, phase: Phase, limits: Limits) -> float:
        """Seconds without a step after which a run counts as hung without a second sign."""
        steps_s = max(limits.alone_s, limits.alone_p95 * self.p95_s)
        return max(steps_s, self._phase_limit_s(phase, limits))

    def _phase_limit_s(self, phase: Phase, limits: Limits) -> float:
        """Seconds that a phase may take: much longer than past ones, or a limit of its own."""
        if phase == "training":
            return 0.0
        first_s = {
            "starting": limits.starting_s,
            "first step": limits.first_step_s,
            "saving": limits.saving_s,
            "validating": limits.validating_s,
        }[phase]
        past_s = self.longest_s.get(phase)
        least_s = limits.first_step_least_s if phase == "first step" else 0.0
        limit_s = first_s if past_s is None else max(limits.learned * past_s, least_s)
        return min(limit_s, limits.most_s) if phase in ("saving", "validating") else limit_s
