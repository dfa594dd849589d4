"""Means of a measure over videos: how sure they are, and if one differs from another."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

_DRAWS = 1000
_SEED = 0  # the same numbers give the same interval
_LIKELY = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class Mean:
    """A mean over n videos and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences over n videos, and the p value of a sign-flip test."""

    mean: float
    p: float
    n: int


def mean_of(values: Sequence[float]) -> Mean | None:
    """The mean with a percentile interval of 1000 resamples (Efron, 1979); None without values."""
    if not values:
        return None
    numbers = np.asarray(values, dtype=float)
    low, high = np.percentile(numbers[_picks(len(numbers))].mean(1), _LIKELY)
    return Mean(float(numbers.mean()), float(low), float(high), len(numbers))


def paired_difference(
    now: Sequence[float | None], before: Sequence[float | None]
) -> Difference | None:
    """Now minus before, video by video; None where fewer than two videos have both.

    The p value is the share of random flips of the differences' signs whose mean is at least as far
    from zero (Fisher, 1935), two-sided; of n videos it is at least about 2 / 2^n.
    """
    pairs = [
        one - other
        for one, other in zip(now, before, strict=True)
        if one is not None and other is not None
    ]
    if len(pairs) < 2:
        return None
    differences = np.asarray(pairs)
    flipped = np.abs(_signs(len(pairs)) @ differences) / len(pairs)
    seen = abs(float(differences.mean()))
    as_far = int((flipped >= seen - 1e-12).sum())
    p = (as_far + 1) / (_DRAWS + 1)
    return Difference(float(differences.mean()), p, len(pairs))


@cache  # one draw serves every measure of every checkpoint
def _picks(n: int) -> Any:
    return np.random.default_rng(_SEED).integers(n, size=(_DRAWS, n))


@cache
def _signs(n: int) -> Any:
    return np.random.default_rng(_SEED).choice((-1.0, 1.0), size=(_DRAWS, n))
