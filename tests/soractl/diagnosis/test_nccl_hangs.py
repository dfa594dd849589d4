"""Hangs that were planted on two real GPUs, as they were recorded there."""

import ast
import json
import tarfile
from pathlib import Path

import pytest

from soractl.cluster import nccl_ras
from soractl.diagnosis.culprit import VerdictKind, verdict
from soractl.diagnosis.flight_recorder import Look, RankLook, rank_of_trace
from soractl.diagnosis.second_sign import PowerSample, power_flat

RECORDED = Path(__file__).parents[2] / "recorded/nccl-hangs/hangs.tar.xz"
SILENT = ("gil", "stop")
SIDE_THREAD = ("04-thread", "09-read")


@pytest.fixture(scope="module")
def hangs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hangs")
    with tarfile.open(RECORDED) as archive:
        archive.extractall(folder, filter="data")
    return sorted(folder.iterdir())


def look(file, taken_s):
    """A look of two ranks; one that gave no answer is in no file."""
    traces = json.loads(file.read_text())
    ranks = (
        rank_of_trace(traces[str(rank)], rank=rank, node="n1", pid=1, state="S", can_answer=True)
        if str(rank) in traces
        else RankLook(rank=rank, node="n1", pid=1, state="S", can_answer=True)
        for rank in range(2)
    )
    return Look(tuple(ranks), taken_s)


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
        reports = [nccl_ras.parse((hang / f"ras-{n}.json").read_text()) for n in (0, 1)]
        truth = json.loads((hang / "truth.json").read_text())
        lagging = [one.rank for report in reports[1:] for c in report or () for one in c.lagging]
        if truth["kind"] == "stop":  # a stopped process answers RAS neither
            assert lagging == []
            continue
        assert nccl_ras.frozen(reports)
        assert lagging == ([] if hang.name in SIDE_THREAD else [truth["rank"]])


def test_power_is_flat_and_low_while_a_collective_waits(hangs):
    for hang in hangs:
        rows = (hang / "power.csv").read_text().splitlines()
        samples = [PowerSample(**ast.literal_eval(row)) for row in rows]
        # ranks that wait for a save keep the GPUs at rest, at no full utilisation
        assert power_flat(samples) is (hang.name not in SIDE_THREAD)
