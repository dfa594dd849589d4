"""Progress of a work: amount, rate, time left."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from soractl.terminal import text


class Measured(Protocol):
    """Something that a display can show; a `done` or `total` that is not known yet is None."""

    @property
    def done(self) -> int | None: ...

    @property
    def total(self) -> int | None: ...

    @property
    def news(self) -> str:
        """A log file gets a new line only when this has changed."""

    def one_line(self) -> str:
        """The numbers that stand beside the bar."""


class Display(Protocol):
    """Display of progress; `terminal.output` has one for terminals and one for logs."""

    def show(self, measured: Measured) -> None:
        """Draw the newest numbers."""

    def say(self, text: str) -> None:
        """Add a line that stays."""


@dataclass(frozen=True)
class Unit:
    """A unit of counting, as text.

    >>> CLIPS.amount(1200, 5000), BYTES.rate(103e6)
    ('1200 of 5000 clips', '103 MB/s')
    """

    amount: Callable[[int, int], str]
    rate: Callable[[float], str]


BYTES = Unit(
    lambda done, total: f"{text.size(done)} of {text.size(total)}",
    lambda per_s: f"{text.size(per_s)}/s",
)
CLIPS = Unit(
    lambda done, total: f"{done} of {text.count(total, 'clip')}",
    lambda per_s: f"{per_s:.3g} clips/s",
)


@dataclass(frozen=True)
class Reading:
    """One look at a meter.

    >>> Reading(CLIPS, 1200, 5000, failed=3, per_s=88.0).one_line()
    '1200 of 5000 clips  3 failed  88 clips/s  43 s left'
    """

    unit: Unit
    done: int
    total: int
    per_s: float | None = None
    failed: int = 0
    what: str = ""
    more: str = ""  # another rate

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at this rate."""
        return (self.total - self.done) / self.per_s if self.per_s else None

    @property
    def news(self) -> str:
        """Every number is."""
        return self.one_line()

    def one_line(self) -> str:
        """Amount, failures, rate and time left, as far as there are any."""
        parts = [self.what] if self.what else []
        parts.append(self.unit.amount(self.done, self.total))
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [self.unit.rate(self.per_s)] if self.per_s else []
        parts += [self.more] if self.more else []
        parts += [f"{text.duration(self.left_s)} left"] if self.left_s else []
        return "  ".join(parts)


Show = Callable[[Reading], None]


@dataclass
class Meter:
    """Counts what is done and shows it with the rate since the start.

    >>> def show(reading):
    ...     print(reading.done, reading.total, reading.failed)
    >>> meter = Meter(CLIPS, 5000, show, done=1000)
    >>> meter.advance(200, failed=3)
    1200 5000 3
    """

    unit: Unit
    total: int
    show: Show
    done: int = 0
    failed: int = 0
    what: str = ""
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._before, self._began = self.done, self.clock()

    def advance(self, count: int, failed: int = 0, more: str = "") -> None:
        """So many more; those that failed are among them. `more` is another rate to show."""
        self.done += count
        self.failed += failed
        elapsed_s = self.clock() - self._began
        rate = (self.done - self._before) / elapsed_s if elapsed_s else None
        self.show(Reading(self.unit, self.done, self.total, rate, self.failed, self.what, more))
