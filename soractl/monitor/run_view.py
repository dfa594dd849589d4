"""View of a run beside its nodes: loss, step time, slowest ranks, and marks of its events."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from soractl.runs.events import Event, EventKind, all_events, metrics_rows
from soractl.runs.record import AttemptRecord, read_record
from trainer.atomic_files import RunDirError
from trainer.run_dir import RunDir

MOST_POINTS = 1440
SLOWEST_OF = 200  # of the newest logged steps of one attempt
MARKS: Mapping[str, str] = {
    EventKind.STARTED: "attempt",
    EventKind.RESTARTED: "attempt",
    EventKind.SAVED: "save",
    EventKind.HUNG: "interruption",
    EventKind.CRASHED: "interruption",
    EventKind.LOST: "interruption",
    EventKind.KILLED: "interruption",
    EventKind.QUARANTINED: "quarantine",
    EventKind.ENDED: "end",
}
SERIES = {
    "loss": "loss",
    "s_per_step": "s_per_step",
    "slowest_s": "ranks/slowest_s",
    "mean_s": "ranks/mean_s",
}


def view_of(run: RunDir, begin: float, end: float) -> dict[str, Any]:
    """View of a run in a span of time."""
    rows = [row for row in metrics_rows(run) if begin <= float(row.get("time_unix_s", 0)) < end]
    shown = _thinned(rows)
    newest = rows[-1].get("attempt") if rows else None  # its ranks only: others ran elsewhere
    own = [row for row in rows if row.get("attempt") == newest][-SLOWEST_OF:]
    return {
        "name": run.name,
        "unix_s": [round(float(row["time_unix_s"]), 1) for row in shown],
        "step": [row["global_step"] for row in shown],
        **{name: [_short(row.get(key)) for row in shown] for name, key in SERIES.items()},
        "slowest": slowest_ranks(own, _record(run, newest)),
        "slowest_of": len(own),
    }


def marks_of(run: RunDir, begin: float, end: float) -> list[dict[str, Any]]:
    """The run's events in a span of time: `unix_s`, `kind` and `text`."""
    return [
        {"unix_s": round(event.time_unix_s, 1), "kind": MARKS[event.kind], "text": _text(event)}
        for event in all_events(run)
        if event.kind in MARKS and begin <= event.time_unix_s < end
    ]


def slowest_ranks(
    rows: Sequence[Mapping[str, Any]], record: AttemptRecord | None
) -> list[dict[str, Any]]:
    """Ranks that the others waited for most often: rank, node, share of steps, seconds above."""
    known = [row for row in rows if row.get("ranks/slowest") is not None]
    counts = Counter(int(row["ranks/slowest"]) for row in known)
    found = []
    for rank, count in counts.most_common(5):
        above = [
            row["ranks/slowest_s"] - row["ranks/mean_s"]
            for row in known
            if row["ranks/slowest"] == rank
        ]
        node = None
        with suppress(StopIteration):
            node = record.node_of_rank(rank) if record else None
        share = round(count / len(known), 3)
        above_s = _short(sum(above) / len(above))
        found.append({"rank": rank, "node": node, "share": share, "above_s": above_s})
    return found


def _record(run: RunDir, attempt: int | None) -> AttemptRecord | None:
    with suppress(RunDirError, OSError):
        return None if attempt is None else read_record(run.attempt(attempt))
    return None


def _thinned(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most so many rows: of several neighbours the one that took longest."""
    by = 1 + len(rows) // MOST_POINTS
    groups = [rows[i : i + by] for i in range(0, len(rows), by)]
    return [max(group, key=lambda row: float(row.get("s_per_step") or 0.0)) for group in groups]


def _short(value: Any) -> float | None:
    """With five digits; None for what is no number, such as the loss of a step without clips."""
    return float(f"{float(value):.5g}") if value is not None and math.isfinite(value) else None


def _text(event: Event) -> str:
    words = [str(event.kind)]
    if event.attempt is not None and MARKS[event.kind] == "attempt":
        words.append(f"attempt {event.attempt}")
    if event.step is not None:
        words.append(f"at step {event.step}")
    if event.node:
        words.append(event.node)
    return " ".join(words) + (f": {event.text}" if event.text else "")
