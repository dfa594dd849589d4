"""How far a command over many clips is: done, failed, rate, time left."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from soractl.terminal import text


@dataclass(frozen=True)
class Count:
    """One look at it."""

    done: int
    total: int
    failed: int
    per_s: float | None = None


Show = Callable[[Count], None]


def one_line(count: Count) -> str:
    """`1200 of 5000 clips  3 failed  88 clips/s  43 s left`."""
    parts = [f"{count.done} of {text.count(count.total, 'clip')}"]
    if count.failed:
        parts.append(f"{count.failed} failed")
    if count.per_s:
        parts.append(f"{count.per_s:.3g} clips/s")
        parts.append(f"{text.duration((count.total - count.done) / count.per_s)} left")
    return "  ".join(parts)


class Counter:
    """Counts clips as they are done, and shows them with the rate since the start."""

    def __init__(self, total: int, done: int, failed: int, show: Show) -> None:
        self._total, self._done, self._failed, self._show = total, done, failed, show
        self._before = done
        self._began = time.monotonic()

    def advance(self, done: int, failed: int) -> None:
        """So many more; those that failed are among the done."""
        self._done += done
        self._failed += failed
        elapsed_s = time.monotonic() - self._began
        rate = (self._done - self._before) / elapsed_s if elapsed_s else None
        self._show(Count(self._done, self._total, self._failed, rate))
