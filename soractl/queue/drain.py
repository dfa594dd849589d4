"""Drained nodes: their reasons, and draining a node for a finding of ours."""

import re
from collections.abc import Iterable, Iterator

from soractl.queue.interface import QueueNode
from soractl.remote.folding import fold_names

OURS = re.compile(r"soractl: (?P<check>\S+) \((?P<detail>.*)\)")


def drained(nodes: Iterable[QueueNode]) -> Iterator[str]:
    """A line for each reason for which nodes take no jobs.

    >>> from soractl.queue.slurm_answers import SlurmNode
    >>> list(drained([SlurmNode("n1", "drained", "Xid 79"), SlurmNode("n2", "idle")]))
    ['n1 is drained: Xid 79']
    """
    reasons: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        if node.is_drained:
            why = node.state_in_words, node.reason or "no reason given"
            reasons.setdefault(why, []).append(node.name)
    for (state, reason), names in reasons.items():
        yield f"{fold_names(names)} {'is' if len(names) == 1 else 'are'} {state}: {reason}"


def reason_for(check: str, detail: str) -> str:
    """The reason that the queue shows, on one line.

    >>> reason_for("gpu.xid", "79 on GPU 3\\nsince 02:10")
    'soractl: gpu.xid (79 on GPU 3 since 02:10)'
    """
    return f"soractl: {check} ({' '.join(detail.split())[:200]})"


def follow_findings(node: QueueNode, bad: dict[str, str], good: set[str]) -> str | None:
    """The step for a node: a reason to drain it for, '' to undrain it, None for nothing. Pure.

    `bad`: details by check; `good`: checks that found nothing wrong. What others drained stays
    as it is; what soractl drained comes back when that check, which may also be unknown, is good.
    """
    check = _drained_for(node)
    if node.is_drained and check is None:
        return None
    if check in bad:
        return None
    if bad:
        return reason_for(*next(iter(bad.items())))
    return "" if check in good else None


def _drained_for(node: QueueNode) -> str | None:
    """The check for which soractl drained a node."""
    found = OURS.fullmatch(node.reason or "")
    return found["check"] if found and node.is_drained else None
