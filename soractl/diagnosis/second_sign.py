"""The second sign of a hang, beside a clock that shows no step: pure functions over looks.

Collectives that stand still over 20 s, by the ranks or by NCCL's RAS; or GPUs whose power is flat
and low while they claim to be busy: a waiting NCCL kernel spins at 100 % utilisation and draws a
fifth of the power (measured on H200: 123 W, flat to 0.2 W, where training draws 691 W).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from soractl.cluster import nccl_ras
from soractl.diagnosis.flight_recorder import Look

OVER_S = 20.0
FLAT_W = 3.0
LOW_OF_LIMIT = 0.4
BUSY_PERCENT = 99.0


RasReport = tuple[float, tuple[nccl_ras.Communicator, ...]]  # when it was asked, and the answer


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
    start = _start([look.taken_s for look in looks], over_s)
    if start is None or any(look.faults for look in looks[start:]):
        return None
    recent = looks[start:]
    states = [
        {one.rank: dict(one.enqueued) if one.answered else None for one in look.ranks}
        for look in recent
    ]
    return all(state == states[0] for state in states)


def ras_frozen(reports: Sequence[RasReport], over_s: float = OVER_S) -> bool | None:
    """NCCL's own counts stood still over the last `over_s` seconds; None if that was not seen."""
    start = _start([taken_s for taken_s, _ in reports], over_s)
    if start is None:
        return None
    return nccl_ras.frozen([report for _, report in reports[start:]])


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
        start = _start([one.taken_s for one in found], over_s)
        if start is None:
            return None
        verdicts.append(_stands(found[start:]))
    is_busy = any(found[-1].utilization >= BUSY_PERCENT for found in of_gpu.values())
    return is_busy and all(verdicts)


def _stands(samples: Sequence[PowerSample]) -> bool:
    powers = [sample.power_w for sample in samples]
    return max(powers) - min(powers) <= FLAT_W and max(powers) <= LOW_OF_LIMIT * samples[-1].limit_w


def _start(taken_s: Sequence[float], over_s: float) -> int | None:
    """Index of the first of the newest times that cover so many seconds; times are in order."""
    old = [i for i, one in enumerate(taken_s) if taken_s[-1] - one >= over_s]
    return max(old) if old else None
