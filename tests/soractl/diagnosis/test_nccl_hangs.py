"""Hangs that were planted on two real GPUs, as they were recorded there."""

import json

import pytest

from soractl.cluster import nccl_ras
from soractl.diagnosis.culprit import VerdictKind, verdict
from soractl.diagnosis.second_sign import power_flat
from tests.nccl_hangs import look, power, ras_reports, unpack

SILENT = ("gil", "stop")
SIDE_THREAD = ("04-thread", "09-read")


@pytest.fixture(scope="module")
def hangs(tmp_path_factory):
    return unpack(tmp_path_factory.mktemp("hangs"))


def test_the_planted_rank_and_collective_are_named_ten_times_of_ten(hangs):
    assert len(hangs) == 10
    for hang in hangs:
        truth = json.loads((hang / "truth.json").read_text())
        found = verdict(look(hang / "first.json", 0.0), look(hang / "second.json", 2.0))
        saving = VerdictKind.SAVING if hang.name in SIDE_THREAD else VerdictKind.LAGGING
        kind = VerdictKind.SILENT if truth["kind"] in SILENT else saving
        assert (hang.name, found.kind, found.ranks) == (hang.name, kind, (truth["rank"],))
        assert found.collective.description == truth["description"]
        assert found.collective.number in truth["numbers"]


def test_ras_names_the_same_rank_where_the_main_thread_hangs(hangs):
    for hang in hangs:
        reports = ras_reports(hang)
        truth = json.loads((hang / "truth.json").read_text())
        lagging = [one.rank for report in reports[1:] for c in report or () for one in c.lagging]
        if truth["kind"] == "stop":  # a stopped process answers RAS neither
            assert lagging == []
            continue
        assert nccl_ras.frozen(reports)
        assert lagging == ([] if hang.name in SIDE_THREAD else [truth["rank"]])


def test_power_is_flat_and_low_while_a_collective_waits(hangs):
    for hang in hangs:
        assert power_flat(power(hang)) is (hang.name not in SIDE_THREAD)
