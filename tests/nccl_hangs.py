"""Hangs that were planted on two real GPUs, as `tests/recorded/nccl-hangs` holds them."""

import ast
import json
import tarfile
from pathlib import Path

from soractl.cluster import nccl_ras
from soractl.diagnosis.flight_recorder import Look, RankLook, rank_of_trace
from soractl.diagnosis.second_sign import PowerSample

ARCHIVE = Path(__file__).parent / "recorded/nccl-hangs/hangs.tar.xz"


def unpack(folder):
    """One folder a hang, in order."""
    with tarfile.open(ARCHIVE) as archive:
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


def ras_reports(hang):
    """NCCL's answers at the begin and at the end of a hang; None where it gave none."""
    return [nccl_ras.parse((hang / f"ras-{n}.json").read_text()) for n in (0, 1)]


def power(hang):
    """Samples of both GPUs, every two seconds."""
    rows = (hang / "power.csv").read_text().splitlines()
    return [PowerSample(**ast.literal_eval(row)) for row in rows]
