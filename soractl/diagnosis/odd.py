"""Odd against siblings: GPUs, ports and nodes that do over time what none of the others do. Pure.

A robust z of single looks finds something in every cluster. Here each thing is smoothed by itself
first, then what is usual for it is taken off (chips and racks differ for ever), and only then is
it compared; the spread of the others has a floor, and an effect below the least one is no matter.
Similarity between machines and persistence are the idea of Minder (Deng et al., NSDI 2025,
https://arxiv.org/abs/2411.01791). A thing that was odd from the first look on is usual for itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Array = Any  # numpy's, which only those load who have looks

MOST_Z = 4.0
SMOOTHED, PERSISTENT, WINDOW = 6, 9, 12  # looks
LEARNED = 24  # looks before anything is usual
EVENTS = ((2, 60), (3, 120))  # a link that goes down so often within so many looks flaps
JUMP = 0.12  # of the median: a look amid a change compares different moments
BUSY = 0.6  # of the highest medians
MAD = 1.4826  # makes the median absolute deviation a standard deviation


@dataclass(frozen=True)
class Measure:
    """A number of each thing, and from which size on a difference counts."""

    name: str
    unit: str
    floor: float  # of the spread
    least: float  # of an effect
    share: bool = False  # differences are shares of the median
    busy: bool = True  # compared while the cluster works alone
    lowest_of: int = 0  # looks whose lowest value counts instead of a median: a peak is none


MEASURES = {
    one.name: one
    for one in (
        Measure("power", "W", 10, 60),
        Measure("clock", "MHz", 25, 110),
        Measure("temperature", "C", 2.5, 8, busy=False),
        Measure("rate", "of the median", 0.04, 0.2, share=True),
        Measure("memory", "GiB", 2.5, 20, busy=False, lowest_of=36),
    )
}


@dataclass(frozen=True)
class Odd:
    """A thing that is odd now."""

    measure: str
    node: int
    thing: int | None  # GPU or port; None: the node itself
    difference: float  # from its siblings, beyond what is usual for it; of events: their number
    since: int  # look


def find_odd(looks: Mapping[str, Array]) -> list[Odd]:
    """Things that are odd at the last look.

    `looks` has an array (looks, nodes, things) or (looks, nodes) for some of `MEASURES`, NaN where
    nobody answered, and optionally `downs`: how often a link went down since the look before. Some
    twenty minutes of looks, one each 5 s, are enough.
    """
    found = []
    for name, values in looks.items():
        _, things = _flat(values)
        alarms, effects = odd_looks(name, values, looks.get("power"))
        for at in alarms[-1].nonzero()[0].tolist():
            thing = at % things if values.ndim == 3 else None
            difference, since = float(effects[-1, at]), _begin(alarms[:, at])
            found.append(Odd(name, at // things, thing, difference, since))
    return sorted(found, key=lambda one: (one.node, one.thing or 0, one.measure))


def odd_looks(name: str, values: Array, power: Array | None = None) -> tuple[Array, Array]:
    """At each look, which things are odd, and by how much; by events for `downs`."""
    import numpy as np

    flat, _ = _flat(values)
    if name == "downs":
        return _flapping(np.nan_to_num(flat))
    measure = MEASURES[name]
    median = np.nanmedian(flat, axis=1, keepdims=True)
    apart = (flat - median) / np.abs(median) if measure.share else flat - median
    kept = np.isfinite(median[:, 0])
    if measure.busy:
        kept &= _comparable(flat if power is None else _flat(power)[0])
    effects, odd = np.zeros_like(flat), np.zeros(flat.shape, bool)
    if kept.sum() > LEARNED:
        effects[kept], seen = _judge(measure, apart[kept])
        odd[kept] = _last(seen.astype(float), WINDOW) >= PERSISTENT
    return _held(odd, kept), _held(effects, kept)


def _flapping(downs: Array) -> tuple[Array, Array]:
    """Links that go down again and again; not where most do, as when a switch starts anew."""
    import numpy as np

    counts = {looks: _last(downs, looks) for _, looks in EVENTS}
    odd = np.zeros(downs.shape, bool)
    for number, looks in EVENTS:
        most = np.median(counts[looks], axis=1, keepdims=True)
        odd |= counts[looks] - most >= number
    return odd, counts[EVENTS[-1][1]]


def _judge(measure: Measure, apart: Array) -> tuple[Array, Array]:
    """Effects beyond the usual, and where they are odd; one row a look."""
    import numpy as np

    if measure.lowest_of:
        smooth = _rolling(apart, measure.lowest_of, np.nanmin)
    else:
        smooth = _rolling(apart, SMOOTHED, np.nanmedian)
    effects = smooth - _usual(smooth)
    center = np.nanmedian(effects, axis=1, keepdims=True)
    spread = MAD * np.nanmedian(np.abs(effects - center), axis=1, keepdims=True)
    z = np.abs(effects - center) / np.maximum(spread, measure.floor)
    odd = (z > MOST_Z) & (np.abs(effects) > measure.least)
    odd[:LEARNED] = False
    return effects, odd & np.isfinite(effects)


def _usual(smooth: Array) -> Array:
    """The median of each thing's past, without the last looks; renewed once a minute."""
    import numpy as np

    usual = np.zeros_like(smooth)
    for begin in range(0, len(smooth), WINDOW):
        past = smooth[: max(begin - WINDOW, WINDOW)]
        usual[begin : begin + WINDOW] = np.nanmedian(past, axis=0)
    return usual


def _comparable(power: Array) -> Array:
    """Looks at which the cluster works, and at which its median does not jump."""
    import numpy as np

    median = np.nanmedian(power, axis=1)
    busy = median > BUSY * np.nanpercentile(median, 90)
    jump = np.abs(np.diff(median, prepend=median[0])) > JUMP * np.maximum(median, 1e-9)
    after = np.concatenate(([False], jump[:-1]))
    return busy & ~jump & ~after


def _rolling(values: Array, looks: int, reduce: Any) -> Array:
    """A reduction over the last looks."""
    import numpy as np

    first = np.repeat(values[:1], looks - 1, axis=0)
    windows = np.lib.stride_tricks.sliding_window_view(np.concatenate((first, values)), looks, 0)
    return reduce(windows, axis=-1)


def _last(values: Array, looks: int) -> Array:
    """Sums over the last looks."""
    import numpy as np

    sums = np.cumsum(values, axis=0)
    before = np.zeros_like(sums)
    before[looks:] = sums[:-looks]
    return sums - before


def _held(values: Array, kept: Array) -> Array:
    """Rows that are not comparable have the values of the last one that is."""
    import numpy as np

    last = np.maximum.accumulate(np.where(kept, np.arange(len(kept)), 0))
    return values[last]


def _begin(alarms: Array) -> int:
    """The look since which a thing has been odd without a break."""
    quiet = (~alarms).nonzero()[0]
    return int(quiet[-1]) + 1 if len(quiet) else 0


def _flat(values: Array) -> "tuple[Array, int]":
    """A column a thing, and how many things a node has."""
    if values.ndim == 2:
        return values, 1
    return values.reshape(len(values), -1), values.shape[2]
