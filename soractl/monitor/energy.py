"""Energy that the GPUs of a run took, by integration of the minutes that a monitor kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soractl.errors import SoractlError
from soractl.files.home import in_home
from soractl.monitor import store
from soractl.monitor.record import numbers, unpack
from soractl.runs.record import read_record
from trainer.atomic_files import RunDirError
from trainer.run_dir import RunDir

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Energy:
    """Energy of nodes' GPUs over a time, of which only a share may be known."""

    kwh: float
    known_s: float  # node-seconds whose power is known
    whole_s: float  # node-seconds of the run
    price_per_kwh: float | None = None

    @property
    def known(self) -> float:
        """The known share of the time; what is missing is in no sum."""
        return min(self.known_s / self.whole_s, 1.0) if self.whole_s else 0.0

    @property
    def cost(self) -> float | None:
        """In the currency of `price_per_kwh`."""
        return None if self.price_per_kwh is None else self.kwh * self.price_per_kwh

    def as_json(self) -> dict[str, Any]:
        """Under the names that an account has for it."""
        return {"energy_kwh": self.kwh, "energy_known": self.known, "energy_cost": self.cost}


def energy_of(
    run: RunDir,
    begin_unix_s: float,
    end_unix_s: float,
    price_per_kwh: float | None = None,
    folder: Path = store.DEFAULT_FOLDER,
) -> Energy | None:
    """Energy of a run between two moments; None where no monitor kept anything of its nodes.

    A node counts from its first attempt on to the begin of the first attempt without it.
    """
    try:
        spans = _spans(run, begin_unix_s, end_unix_s)
        parts = [energy_between(in_home(folder), *span) for span in spans]
    except (SoractlError, RunDirError, OSError):
        return None
    kwh, known_s = (sum(part[i] for part in parts) for i in (0, 1))
    whole_s = sum((end - begin) * len(nodes) for nodes, begin, end in spans)
    return Energy(kwh, known_s, whole_s, price_per_kwh) if known_s else None


def energy_between(
    folder: Path, nodes: Sequence[str], begin: float, end: float
) -> tuple[float, float]:
    """kWh of nodes' GPUs in a span, and the node-seconds of it that are known.

    A minute counts by its share in the span, with the mean of its looks; a GPU whose power is
    unknown in it counts as none, and so does its share of the node's time.
    """
    joules = known_s = 0.0
    first = int(begin) // store.MINUTE_S * store.MINUTE_S
    for rows in store.read_minutes(folder, first, int(end) + 1, nodes):
        records = unpack(rows.blobs, rows.layout)[::3]
        if "gpus" not in (records.dtype.names or ()):
            continue
        watts = numbers(records, "gpus", "power_w")
        at = np.array(rows.unix_s, float)
        seconds = np.minimum(at + store.MINUTE_S, end) - np.maximum(at, begin)
        seconds = np.maximum(seconds, 0.0)
        joules += float((np.nan_to_num(watts).sum(axis=1) * seconds).sum())
        known_s += float(((~np.isnan(watts)).mean(axis=1) * seconds).sum())
    return joules / JOULES_PER_KWH, known_s


def _spans(run: RunDir, begin: float, end: float) -> list[tuple[tuple[str, ...], float, float]]:
    """Nodes of each attempt, from its start to the next one's, or to the end."""
    records = [read_record(one) for one in run.attempts() if one.plan.is_file()]
    starts = [*(min(max(record.started_unix_s, begin), end) for record in records[1:]), end]
    found, since = [], begin
    for record, until in zip(records, starts, strict=True):
        found.append((tuple(node.name for node in record.nodes), since, max(since, until)))
        since = max(since, until)
    return found
