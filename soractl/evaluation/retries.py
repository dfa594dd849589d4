"""Retries of checkpoints that could not be sampled: how often, and how long after.

The wait grows from try to try. A full disk is no checkpoint's fault: it costs no try, and all
checkpoints of its run wait, since none of their videos could be written.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from soractl.evaluation.find_new import Item

MOST_TRIES = 3  # of one checkpoint, by one server
FIRST_WAIT_S = 30.0
LONGEST_WAIT_S = 600.0
_GROWTH = 4.0

Key = tuple[Path, str] | Path  # a save of a checkpoint, or a run's folder


@dataclass
class Retries:
    """Failures of this server so far."""

    clock: Callable[[], float] = time.monotonic
    _failures: Counter[Key] = field(default_factory=Counter)
    _again_s: dict[Key, float] = field(default_factory=dict)

    def may_try(self, item: Item) -> bool:
        """Tries are left, and the wait after the last failure is over."""
        now_s = self.clock()
        waits = any(now_s < self._again_s.get(key, now_s) for key in (item.key, item.run.path))
        return not waits and self.left(item) > 0

    def left(self, item: Item) -> int:
        """Tries that the checkpoint still has."""
        return MOST_TRIES - self._failures[item.key]

    def failed(self, item: Item, *, disk_full: bool) -> float:
        """Seconds until the next try."""
        key: Key = item.run.path if disk_full else item.key
        self._failures[key] += 1
        wait_s = wait_after(self._failures[key])
        self._again_s[key] = self.clock() + wait_s
        return wait_s

    def worked(self, item: Item) -> None:
        """The disk of its run has room again."""
        self._failures.pop(item.run.path, None)


def wait_after(failures: int) -> float:
    """Seconds to wait after so many failures, at least one.

    >>> [wait_after(failures) for failures in (1, 2, 3, 4)]
    [30.0, 120.0, 480.0, 600.0]
    """
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * _GROWTH ** min(failures - 1, 10))
