"""Lines and JSON of `clock`."""

import socket
import time
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from soractl.health.clock import BAD, UNKNOWN, Measured, Step, against_most
from soractl.health.clock_watch import ClockRound, NodeClock
from soractl.health.time_daemon import chrony_lines
from soractl.remote.folding import fold_names
from soractl.terminal.table import Table

HEADERS = ("NODE", "OFFSET ms", "+- ms", "DRIFT ppm", "STEPS", "CLOCK", "KEPT BY", "NOTE")


def table(found: ClockRound) -> Table:
    """A row for each node."""
    rows = [_cells(row) for row in found.rows]
    return Table(HEADERS, rows, words=2, styles=tuple(_style(row) for row in found.rows))


def remedies(found: ClockRound) -> list[str]:
    """The settings that mend bad clocks and clocks that nobody keeps."""
    head = socket.gethostname()
    ill = [
        head if row.node.local else row.node.name
        for row in found.rows
        if row.verdict.level == BAD or (row.daemon and not row.daemon.names)
    ]
    followers = [name for name in ill if name != head]  # nobody is its own server
    return chrony_lines(head, fold_names(followers)) if ill else []


def notes(found: ClockRound) -> Iterator[str]:
    """Notes about more than one node, and the count of all."""
    for step in found.own_steps:
        yield f"this machine's clock stepped by {_ms(step.size)} ms {_at(step)}"
    offsets = [row.offset for row in found.rows if row.offset]
    if own := against_most(offsets, found.policy.max_offset_ms / 1000):
        yield f"most nodes agree with each other: this machine is off by {_ms(own)} ms"
    if pair := _widest(found):
        yield pair
    yield count(found)


def count(found: ClockRound) -> str:
    """`hosts.txt: 22 good, 1 BAD, 1 unreachable in 0.8 s`."""
    levels = [str(row.fault.kind) if row.fault else row.verdict.level for row in found.rows]
    parts = [f"{levels.count(level)} {level}" for level in dict.fromkeys(levels)]
    return f"{found.source.origin}: {', '.join(parts)} in {found.elapsed_s:.1f} s"


def as_json(found: ClockRound) -> dict[str, Any]:
    """All of it, in seconds; unknown is null."""
    return {
        "elapsed_s": found.elapsed_s,
        "policy": vars(found.policy),
        "own_steps": [_step_json(step) for step in found.own_steps],
        "nodes": [_node_json(row) for row in found.rows],
    }


def _cells(row: NodeClock) -> tuple[str, ...]:
    if row.fault or row.offset is None or row.daemon is None:
        steps = str(len(row.steps)) if row.steps else "-"
        return (row.node.name, "-", "-", "-", steps, "-", "-", str(row.fault))
    return (
        row.node.name,
        f"{row.offset.value * 1000:+.2f}",
        f"{row.offset.bound * 1000:.2f}",
        _drift(row.drift_ppm),
        str(len(row.steps)),
        row.verdict.level,
        row.daemon.text,
        "; ".join((*row.verdict.reasons, *row.verdict.notes, *_coarse(row))),
    )


def _coarse(row: NodeClock) -> tuple[str, ...]:
    return () if row.fine else ("without python3 steps below 25 ms are not seen",)


def _drift(drift: Measured | None) -> str:
    return f"{drift.value:+.1f}" if drift and drift.surely_above(0) else "-"


def _style(row: NodeClock) -> str:
    if row.fault or row.verdict.level == BAD:
        return "red"
    return "yellow" if row.verdict.level == UNKNOWN else ""


def _widest(found: ClockRound) -> str:
    """The two nodes that are farthest apart, where that is more than the policy allows."""
    known = [(row.node.name, row.offset) for row in found.rows if row.offset]
    pairs = [
        (Measured(b.value - a.value, a.bound + b.bound), one, other)
        for (one, a), (other, b) in combinations(known, 2)
    ]
    if not pairs:
        return ""
    apart, one, other = max(pairs, key=lambda pair: abs(pair[0].value))
    if not apart.surely_above(found.policy.max_offset_ms / 1000):
        return ""
    return f"farthest apart: {one} and {other}, {abs(apart.value) * 1000:.1f} ms"


def _ms(measured: Measured) -> str:
    return f"{measured.value * 1000:+.2f} (+- {measured.bound * 1000:.2f})"


def _at(step: Step) -> str:
    return time.strftime("at %H:%M:%S", time.localtime(step.unix_s))


def _node_json(row: NodeClock) -> dict[str, Any]:
    daemon = row.daemon
    return {
        "node": row.node.name,
        "verdict": None if row.fault else row.verdict.level,
        "reasons": row.verdict.reasons,
        "notes": row.verdict.notes,
        "offset_s": row.offset and row.offset.value,
        "offset_bound_s": row.offset and row.offset.bound,
        "steps": [_step_json(step) for step in row.steps],
        "drift_ppm": row.drift_ppm and row.drift_ppm.value,
        "drift_bound_ppm": row.drift_ppm and row.drift_ppm.bound,
        "slew_ppm": row.slew_ppm,
        "daemon": daemon and {**vars(daemon), "names": list(daemon.names)},
        "sees_small_steps": row.fine,
        "error": str(row.fault) if row.fault else None,
    }


def _step_json(step: Step) -> dict[str, float]:
    return {
        "unix_s": step.unix_s,
        "size_s": step.size.value,
        "bound_s": step.size.bound,
    }
