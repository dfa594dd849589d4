from dataclasses import replace
from pathlib import Path

import pytest

from soractl.cluster import nccl_ras
from soractl.diagnosis.flight_recorder import Look, RankLook
from soractl.diagnosis.second_sign import PowerSample, frozen, power_flat, ras_frozen
from soractl.errors import Fault, FaultKind


def look(taken_s, *numbers, faults=()):
    ranks = [
        RankLook(rank=i, node="n1", pid=1, answered=n is not None, enqueued={"host:0": n or 0})
        for i, n in enumerate(numbers)
    ]
    return Look(tuple(ranks), taken_s, dict(faults))


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([], None),
        ([look(0, 4, 5)], None),
        ([look(0, 4, 5), look(19, 4, 5)], None),
        ([look(0, 4, 5), look(20, 4, 5)], True),
        ([look(0, 4, 5), look(10, 4, 5), look(20, 4, 6)], False),
        ([look(0, 4, 5), look(10, 4, 6), look(20, 4, 5)], False),
        ([look(0, 1, 1), look(10, 4, 5), look(20, 4, 5), look(30, 4, 5)], True),
        ([look(0, 4, None), look(20, 4, None)], True),
        ([look(0, 4, 5), look(20, 4, None)], False),
        ([look(0, 4, 5), look(20, 4, 5, faults={"n2": Fault(FaultKind.UNREACHABLE)})], None),
    ],
)
def test_collectives_are_frozen_when_all_looks_of_20_s_are_the_same(looks, expected):
    assert frozen(looks) is expected


WAITING = [PowerSample("n1:0", t, 123.0 + 0.1 * (t % 2), 700.0, 100.0) for t in range(0, 25, 5)]
STANDING = [PowerSample("n1:1", t, 120.0, 700.0, 0.0) for t in range(0, 25, 5)]
TRAINING = [PowerSample("n1:1", t, 691.0, 700.0, 100.0) for t in range(0, 25, 5)]
IDLE = [replace(sample, gpu="n1:0", utilization=0.0) for sample in STANDING]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([], None),
        ([*WAITING, *STANDING], True),
        ([*WAITING[:-1], *STANDING], None),
        ([*WAITING, *TRAINING], False),
        ([*IDLE, *STANDING], False),
        ([*WAITING[:-1], replace(WAITING[-1], power_w=140.0), *STANDING], False),
    ],
)
def test_power_is_a_sign_when_all_gpus_are_low_and_flat_and_one_claims_to_be_busy(
    samples, expected
):
    assert power_flat(samples) is expected


RECORDED = Path(__file__).parents[2] / "recorded/ras"
HEALTHY, HUNG = (
    nccl_ras.parse((RECORDED / f"ras-{name}.json").read_text()) for name in ("healthy", "hang")
)


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([], None),
        ([(0.0, HUNG), (19.0, HUNG)], None),
        ([(0.0, HUNG), (5.0, HUNG), (20.0, HUNG)], True),
        ([(0.0, HEALTHY), (5.0, HUNG), (26.0, HUNG)], True),
        ([(0.0, HEALTHY), (20.0, HUNG)], False),
        ([(0.0, ()), (20.0, ())], False),
    ],
)
def test_counts_of_nccl_are_a_sign_when_all_reports_of_20_s_are_the_same(reports, expected):
    assert ras_frozen(reports) is expected
