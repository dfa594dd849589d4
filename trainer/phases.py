"""Seconds of each phase of a step: on a GPU by events that are read later, else by the clock.

Nothing waits while it is measured.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

OWN = ("data", "encode", "forward", "backward")  # in these no rank waits for another
ALL = (*OWN, "reduce", "optimizer")


class _Moment(Protocol):
    def until(self, end: "_Moment") -> float:
        """Seconds from this moment to a later one."""


class _HostMoment:
    def __init__(self) -> None:
        self._time = time.perf_counter()

    def until(self, end: "_Moment") -> float:
        assert isinstance(end, _HostMoment)
        return end._time - self._time


class _DeviceMoment:
    def __init__(self) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record()

    def until(self, end: "_Moment") -> float:
        assert isinstance(end, _DeviceMoment)
        end._event.synchronize()
        seconds: float = self._event.elapsed_time(end._event) / 1000
        return seconds


class Phases:
    """The phases of a rank's steps, since they were last read."""

    def __init__(self) -> None:
        self._micro_steps: list[list[tuple[str, _Moment, _Moment]]] = [[]]

    def begin_micro_step(self) -> None:
        """Begin the next micro step, to which all that follows belongs."""
        self._micro_steps.append([])

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time a block of code as a phase; waiting for data is timed by the clock of the host."""
        moment = _DeviceMoment if torch.cuda.is_available() and name != "data" else _HostMoment
        begin = moment()
        yield
        self._micro_steps[-1].append((name, begin, moment()))

    def read(self) -> list[dict[str, float]]:
        """Seconds by phase of every micro step; waits for the device, and begins anew."""
        measured, self._micro_steps = self._micro_steps, [[]]
        return [_sums(spans) for spans in measured if spans]


def _sums(spans: list[tuple[str, _Moment, _Moment]]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for name, begin, end in spans:
        seconds[name] = seconds.get(name, 0) + begin.until(end)
    return seconds
