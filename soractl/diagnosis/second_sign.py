"""The second sign of a hang, beside a clock that shows no step: pure functions over looks.

Collectives that stand still over 20 s, or GPUs whose power is flat and low while they claim to be
busy: a waiting NCCL kernel spins at 100 % utilisation and draws a fifth of the power (measured on
H200: 123 W, flat to 0.2 W, where training draws 691 W).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from soractl.diagnosis.flight_recorder import Look

OVER_S = 20.0
FLAT_W = 3.0
LOW_OF_LIMIT = 0.4
BUSY_PERCENT = 99.0


@dataclass(frozen=True)
class PowerSample:
    """A GPU of the run at one time."""

    gpu: str  # node and index
    taken_s: float  # monotonic, of this machine
    power_w: float
    limit_w: float
    utilization: float  # percent


def frozen(looks: Sequence[Look], over_s: float = OVER_S) -> bool | None:
    """No rank entered a collective over the last `over_s` seconds; None if that was not seen.

    Looks are oldest first; short ones are enough. A rank that gives no answer in any of them
    stands still as well.
    """
    recent = _since(looks, over_s)
    if recent is None or any(look.faults for look in recent):
        return None
    states = [
        {one.rank: dict(one.enqueued) if one.answered else None for one in look.ranks}
        for look in recent
    ]
    return all(state == states[0] for state in states)


def power_flat(samples: Sequence[PowerSample], over_s: float = OVER_S) -> bool | None:
    """Every GPU's power is flat and low over `over_s` seconds, though some claim to be busy.

    None without GPUs, or while the samples cover too short a time.
    """
    of_gpu: dict[str, list[PowerSample]] = defaultdict(list)
    for sample in samples:
        of_gpu[sample.gpu].append(sample)
    if not of_gpu:
        return None
    verdicts = []
    for found in of_gpu.values():
        last = found[-1].taken_s
        if last - found[0].taken_s < over_s:
            return None
        start = max(i for i, one in enumerate(found) if last - one.taken_s >= over_s)
        verdicts.append(_stands(found[start:]))
    is_busy = any(found[-1].utilization >= BUSY_PERCENT for found in of_gpu.values())
    return is_busy and all(verdicts)


def _stands(samples: Sequence[PowerSample]) -> bool:
    powers = [sample.power_w for sample in samples]
    return max(powers) - min(powers) <= FLAT_W and max(powers) <= LOW_OF_LIMIT * samples[-1].limit_w


def _since(looks: Sequence[Look], over_s: float) -> Sequence[Look] | None:
    """The newest looks, from the last one that is at least `over_s` seconds older than the end."""
    old = [i for i, one in enumerate(looks) if looks[-1].taken_s - one.taken_s >= over_s]
    return looks[max(old) :] if old else None
