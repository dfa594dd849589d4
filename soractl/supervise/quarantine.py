"""Quarantine: nodes that no supervisor starts on for a while, and the strikes that lead there.

One file beside the runs, so that all runs of a cluster share it: `runs/.quarantine.json`. Its times
are of the clock that dates the files there, since supervisors run on several machines.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from soractl.files.lock import locked
from trainer.atomic_files import folder_time, read_json, write_json

STRIKE_HOLDS_S = 86_400.0
QUARANTINE_S = 86_400.0
FILE = ".quarantine.json"


@dataclass(frozen=True)
class Strike:
    """A failure that one node is to blame for."""

    node: str
    unix_s: float
    run: str
    attempt: int
    reason: str


@dataclass(frozen=True)
class Quarantined:
    """A node that is set apart: why, until when, and where the evidence lies."""

    node: str
    reason: str
    since_unix_s: float
    until_unix_s: float
    evidence: str | None = None


@dataclass(frozen=True)
class Book:
    """Strikes and quarantined nodes that count now."""

    strikes: tuple[Strike, ...] = ()
    nodes: Mapping[str, Quarantined] = field(default_factory=dict)

    def strikes_of(self) -> dict[str, int]:
        """Number of strikes by node."""
        names = [strike.node for strike in self.strikes]
        return {name: names.count(name) for name in names}

    def as_json(self) -> dict[str, Any]:
        """As the file has it."""
        return {
            "strikes": [asdict(strike) for strike in self.strikes],
            "nodes": [asdict(node) for node in self.nodes.values()],
        }


def read_book(root: Path, now_unix_s: float | None = None) -> Book:
    """Strikes of the last day and nodes whose quarantine is not over."""
    now = folder_time(root) if now_unix_s is None else now_unix_s
    try:
        values = read_json(root / FILE)
    except FileNotFoundError:
        return Book()
    strikes = tuple(Strike(**strike) for strike in values["strikes"])
    nodes = [Quarantined(**node) for node in values["nodes"]]
    return Book(
        tuple(strike for strike in strikes if now - strike.unix_s < STRIKE_HOLDS_S),
        {node.node: node for node in nodes if node.until_unix_s > now},
    )


def add_strike(root: Path, strike: Strike) -> Book:
    """The book with one more strike; the same attempt strikes a node once."""
    with _changing(root):
        book = read_book(root)
        known = {(one.node, one.run, one.attempt) for one in book.strikes}
        if (strike.node, strike.run, strike.attempt) not in known:
            book = Book((*book.strikes, strike), book.nodes)
            write_json(root / FILE, book.as_json())
        return book


def set_apart(root: Path, reasons: Mapping[str, str], evidence: str | None) -> None:
    """Quarantine nodes for a day."""
    with _changing(root):
        now = folder_time(root)
        book = read_book(root, now)
        added = {
            node: Quarantined(node, reason, now, now + QUARANTINE_S, evidence)
            for node, reason in reasons.items()
        }
        write_json(root / FILE, Book(book.strikes, {**book.nodes, **added}).as_json())


def lift(root: Path, node: str) -> bool:
    """End a node's quarantine and forget its strikes; False if it has neither."""
    with _changing(root):
        book = read_book(root)
        strikes = tuple(strike for strike in book.strikes if strike.node != node)
        nodes = {name: one for name, one in book.nodes.items() if name != node}
        is_known = node in book.nodes or len(strikes) < len(book.strikes)
        if is_known:
            write_json(root / FILE, Book(strikes, nodes).as_json())
        return is_known


def _changing(root: Path) -> Any:
    refusal = f"{root / FILE} is being changed by another command"
    return locked(root / f"{FILE}.lock", refusal, wait_s=5.0)
