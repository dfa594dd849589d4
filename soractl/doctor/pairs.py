"""Slow nodes and links, found by two rounds of pairs: who is slow with a good partner too. Pure.

The two rounds are those of DLRover's node check
(https://github.com/intelligent-machine-learning/dlrover): neighbours first, then each node of a
slow pair with one of a good pair. Three nodes are measured pair by pair.
"""

import statistics
from collections.abc import Mapping, Sequence

SLOW = 0.6  # of the median of all pairs

Pair = tuple[str, str]
Speeds = Mapping[Pair, float]  # bytes a second; 0.0 where a pair did not get through


def first_round(names: Sequence[str]) -> list[list[Pair]]:
    """Pairs that are measured at once, a list a turn; no node is in two of a turn."""
    if len(names) == 3:
        one, two, three = names
        return [[(one, two)], [(two, three)], [(one, three)]]
    pairs = list(zip(names[::2], names[1::2], strict=False))
    remainder = [(names[-1], names[0])] if len(names) % 2 and len(names) > 1 else []
    return [turn for turn in (pairs, remainder) if turn]


def second_round(names: Sequence[str], speeds: Speeds) -> list[list[Pair]]:
    """Each node of a slow pair with a node that is good, as many at once as there are good ones."""
    slow = slow_pairs(speeds)
    suspects = [name for name in names if any(name in pair for pair in slow)]
    good = [name for name in names if name not in suspects]
    if len(names) == 3 or not suspects or not good:
        return []
    turns = [suspects[at : at + len(good)] for at in range(0, len(suspects), len(good))]
    return [list(zip(turn, good, strict=False)) for turn in turns]


def slow_pairs(speeds: Speeds) -> list[Pair]:
    """Pairs far below the median; of two or three pairs, below the fastest."""
    if not speeds:
        return []
    values = list(speeds.values())
    usual = statistics.median(values) if len(values) > 3 else max(values)
    return [pair for pair, speed in speeds.items() if speed < SLOW * usual or speed == 0.0]


def slow_nodes(speeds: Speeds) -> list[str]:
    """Nodes all of whose pairs are slow, one of them with a node that has a good pair too."""
    slow = slow_pairs(speeds)
    good = {name for pair in speeds if pair not in slow for name in pair}
    found = {name: None for pair in slow for name in pair if name not in good}
    return [
        name
        for name in found
        if any(other in good for pair in slow if name in pair for other in pair if other != name)
    ]
