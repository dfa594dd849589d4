"""Lines and JSON of `health --replay`."""

from collections.abc import Iterator
from typing import Any

from soractl.doctor.replay import Replay
from soractl.remote.folding import fold_lines
from soractl.terminal import text
from soractl.terminal.table import Table

HEADERS = ("NODE", "RANK", "ms", "BITS", "DEVICE", "VERDICT")
REMEDIES = {
    "other bits": "it computes other numbers than its equals: take the node out, run `dcgmi diag`",
    "slow": "look at its clocks, its heat and its power limit with `soractl health --only gpu`",
}


def lines(found: Replay) -> Table:
    """A row for each rank that is not good; all of them where none is."""
    shown = [one for one in found.states if one[1] != "good"] or found.states
    rows = [
        (
            *(answer.node, answer.rank, f"{answer.seconds * 1000:.1f}"),
            *(answer.digest or "-", answer.device or "-", answer.error or state),
        )
        for answer, state in shown
    ]
    styles = tuple("" if state == "good" else "red" for _, state in shown)
    return Table(HEADERS, rows, 2, styles)


def notes(found: Replay) -> Iterator[str]:
    """The remedy, and the count."""
    yield from fold_lines(
        (answer.node, REMEDIES[state]) for answer, state in found.states if state in REMEDIES
    )
    good = sum(state == "good" for _, state in found.states)
    ranks = text.count(len(found.states), "rank")
    yield f"{found.origin}: {good} good of {ranks} ({found.kind}) in {found.elapsed_s:.1f} s"


def as_json(found: Replay) -> dict[str, Any]:
    """All of it."""
    return {
        "device": found.kind,
        "elapsed_s": found.elapsed_s,
        "ranks": [{**vars(answer), "verdict": state} for answer, state in found.states],
    }
