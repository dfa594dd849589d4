"""How far a copy or a check is: bytes, rate, time left."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from soractl.terminal import text


@dataclass(frozen=True)
class Transfer:
    """One look at it."""

    what: str
    done_bytes: int
    total_bytes: int
    bytes_per_s: float | None = None

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at this rate."""
        left = self.total_bytes - self.done_bytes
        return left / self.bytes_per_s if self.bytes_per_s else None


Show = Callable[[Transfer], None]


def one_line(transfer: Transfer) -> str:
    """`epoch0-global_step200 (2 of 5)  1.2 GB of 4.0 GB  103 MB/s  27 s left`."""
    amount = f"{text.size(transfer.done_bytes)} of {text.size(transfer.total_bytes)}"
    parts = [transfer.what, amount]
    if transfer.bytes_per_s:
        parts.append(f"{text.size(transfer.bytes_per_s)}/s")
    if transfer.left_s:
        parts.append(f"{text.duration(transfer.left_s)} left")
    return "  ".join(parts)


class Meter:
    """Counts bytes as they come and shows them with the rate since the start."""

    def __init__(self, what: str, total_bytes: int, show: Show) -> None:
        self._what, self._total, self._show = what, total_bytes, show
        self._done = 0
        self._began = time.monotonic()

    def advance(self, count: int) -> None:
        """So many more."""
        self._done += count
        elapsed = time.monotonic() - self._began
        rate = self._done / elapsed if elapsed else None
        self._show(Transfer(self._what, self._done, self._total, rate))
