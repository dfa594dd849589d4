"""Drained nodes: their reasons, and draining a node for a finding of ours."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from soractl.remote.folding import fold_names

NODE_FIELDS = "%N|%T|%E"
OURS = re.compile(r"soractl: (?P<check>\S+) \((?P<detail>.*)\)")
DRAINED = ("drain", "drng", "down", "fail")


@dataclass(frozen=True)
class SlurmNode:
    """A node as Slurm knows it.

    >>> SlurmNode("n1", "drained", "soractl: gpu.ecc (GPU 3)").check
    'gpu.ecc'
    """

    name: str
    state: str  # Slurm's own word, such as idle, mixed, drained, down*
    reason: str | None = None

    @property
    def is_drained(self) -> bool:
        """No job starts on it."""
        return self.state.startswith(DRAINED)

    @property
    def check(self) -> str | None:
        """The check for which soractl drained it."""
        found = OURS.fullmatch(self.reason or "")
        return found["check"] if found and self.is_drained else None


def parse_sinfo(text: str) -> list[SlurmNode]:
    """Nodes of an answer in `NODE_FIELDS`; one that is in several partitions comes once.

    >>> parse_sinfo("n1|drained|Xid 79\\nn2|idle|none\\nn1|drained|Xid 79\\n")[0].reason
    'Xid 79'
    """
    rows = (line.split("|", 2) for line in dict.fromkeys(text.splitlines()))
    return [
        SlurmNode(name, state, None if reason in ("none", "") else reason)
        for name, state, reason in rows
    ]


def drained(nodes: list[SlurmNode]) -> Iterator[str]:
    """A line for each reason for which nodes take no jobs.

    >>> list(drained([SlurmNode("n1", "drained", "Xid 79"), SlurmNode("n2", "idle")]))
    ['n1 is drained: Xid 79']
    """
    reasons: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        if node.is_drained:
            state = node.state.rstrip("*~#$@+-")
            reasons.setdefault((state, node.reason or "no reason given"), []).append(node.name)
    for (state, reason), names in reasons.items():
        yield f"{fold_names(names)} {'is' if len(names) == 1 else 'are'} {state}: {reason}"


def reason_for(check: str, detail: str) -> str:
    """The reason that Slurm shows, on one line.

    >>> reason_for("gpu.xid", "79 on GPU 3\\nsince 02:10")
    'soractl: gpu.xid (79 on GPU 3 since 02:10)'
    """
    return f"soractl: {check} ({' '.join(detail.split())[:200]})"


def follow_findings(node: SlurmNode, bad: dict[str, str], good: set[str]) -> str | None:
    """What to do with a node: a reason to drain it for, '' to undrain it, None for nothing. Pure.

    `bad`: details by check; `good`: checks that found nothing wrong. What others drained stays
    as it is; what soractl drained comes back when that check, which may also be unknown, is good.
    """
    if node.is_drained and node.check is None:
        return None
    if node.check in bad:
        return None
    if bad:
        return reason_for(*next(iter(bad.items())))
    return "" if node.check in good else None
