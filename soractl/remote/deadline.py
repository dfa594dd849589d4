"""One moment on the clock until which a request and all its parts must end."""

import time

from soractl.errors import Fault, FaultKind
from soractl.terminal.text import span


class DeadlinePassed(Exception):
    """The time that was given is over."""


class Deadline:
    """A moment on the wall clock until which everything must be done."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._start = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def left(self) -> float:
        """Seconds left; DeadlinePassed when there are none."""
        left = self.seconds - self.elapsed()
        if left <= 0:
            raise DeadlinePassed
        return left


def no_end_within(seconds: float) -> Fault:
    """The fault of a request whose deadline passed."""
    return Fault(FaultKind.DEADLINE, f"no end within {span(seconds)}")
