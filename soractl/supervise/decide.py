"""Causes of failed attempts, and what follows: restart and where, wait, or give up. Pure.

Causes have classes with budgets of their own: a night of bad hardware does not use up what a
program error may cost, and the other way round.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from soractl.remote.folding import fold_lines
from soractl.runs.post_mortem import Failure
from soractl.supervise.states import State

STRIKES = 2  # of one node within a day
SHORT_ATTEMPTS = 3  # of the last so many, those that were short and one node's fault
SHORT_S = 600.0
NO_CHECKPOINT_ATTEMPTS = 3
STARTS_WITHIN_S = 1800.0


_DISK = re.compile(r"No space left on device|Disk quota exceeded")
_REQUEST = re.compile(
    r"Unauthorized|authentication failed|Permission denied|\b40[13] Client Error|gated repo",
    re.IGNORECASE,
)
_NODES_FAULT = re.compile(
    r"killed by SIG(KILL|SEGV|BUS|ILL|FPE)|\bXid\b|uncorrectable|\bECC\b|CUDA error|"
    r"device-side|GPU is lost|Input/output error|Stale file handle"
)
_LINKS_FAULT = re.compile(r"NCCL|Connection (reset|closed|refused)|[Tt]imed ?out|Broken pipe")
_CHECKPOINT = "checkpoint"


class CauseClass(StrEnum):
    """Classes of causes."""

    HARDWARE = "hardware"  # a lost node, a killed rank, a GPU or a link
    PROGRAM = "program"  # an exception in Python, or a hang that nothing else explains
    REQUEST = "request"  # bad settings, missing files, no authentication: no restart cures it
    DISK = "full disk"


BUDGET = {CauseClass.HARDWARE: 50, CauseClass.PROGRAM: 10}


@dataclass(frozen=True)
class Cause:
    """Why an attempt ended, as far as it decides what follows."""

    state: str  # hung, crashed or lost
    kind: CauseClass
    text: str
    node: str | None = None  # the one to blame, if there is one
    fingerprint: str = ""  # equal for two failures of one cause: an exception, a collective


@dataclass(frozen=True, kw_only=True)
class PastAttempt:
    """A supervised attempt that failed."""

    number: int
    started_unix_s: float
    ended_unix_s: float
    cause: Cause
    step: int | None = None  # the last finished one
    new_checkpoint: bool = False  # complete ones came while it ran


@dataclass(frozen=True, kw_only=True)
class Situation:
    """All that a decision looks at."""

    attempts: tuple[PastAttempt, ...]  # the last one is the one that just failed
    nodes: tuple[str, ...]  # those that the run should have, the head node first
    spares: tuple[str, ...] = ()
    unusable: Mapping[str, str] = field(default_factory=dict)  # nodes that do not answer, and why
    quarantined: frozenset[str] = frozenset()
    strikes: Mapping[str, int] = field(default_factory=dict)  # of the last day, this one included
    min_nodes: int | None = None  # None: only with as many as it should have
    most_starts: int = 5  # within half an hour


@dataclass(frozen=True)
class Restart:
    """Start the next attempt on these nodes; set others apart first."""

    nodes: tuple[str, ...]
    quarantine: Mapping[str, str] = field(default_factory=dict)  # node: reason


@dataclass(frozen=True)
class Wait:
    """Nothing can be started now; decide again in a while."""

    reason: str


@dataclass(frozen=True)
class GiveUp:
    """Another attempt would fail as well."""

    reason: str


Decision = Restart | Wait | GiveUp


def decide(situation: Situation) -> Decision:
    """What follows a failed attempt."""
    if reason := reason_to_give_up(situation):
        return GiveUp(reason)
    barred = {*situation.quarantined, *situation.unusable}
    least = min(situation.min_nodes or len(situation.nodes), len(situation.nodes))
    apart = to_quarantine(situation)
    # A node with strikes is better than none: it is set apart only where others can go on.
    for also in (apart, {}):
        chosen = _chosen(situation, {*barred, *also})
        if len(chosen) >= max(1, least):
            return Restart(chosen, also)
    missing = fold_lines(
        (name, situation.unusable.get(name, "quarantined"))
        for name in situation.nodes
        if name in barred
    )
    return Wait(f"{len(chosen)} of {least} nodes are usable ({'; '.join(missing)})")


def reason_to_give_up(situation: Situation) -> str:
    """Why another attempt would fail as well, or nothing."""
    attempts = situation.attempts
    last = attempts[-1]
    cause = last.cause
    if cause.kind is CauseClass.REQUEST:
        return f"no restart cures this: {cause.text}"
    if cause.kind is CauseClass.DISK:
        return f"the disk is full: {cause.text}"
    if len(attempts) > 1 and _is_same(attempts[-2], last):
        return f"twice the same at step {last.step}: {cause.text}"
    recent = attempts[-NO_CHECKPOINT_ATTEMPTS:]
    if len(recent) == NO_CHECKPOINT_ATTEMPTS and not any(one.new_checkpoint for one in recent):
        return f"no new complete checkpoint in {len(recent)} attempts"
    since = last.ended_unix_s - STARTS_WITHIN_S
    starts = sum(one.started_unix_s >= since for one in attempts)
    if starts >= situation.most_starts:
        return f"{starts} starts within {STARTS_WITHIN_S / 60:.0f} minutes"
    spent = Counter(one.cause.kind for one in attempts)
    if spent[cause.kind] > BUDGET[cause.kind]:
        return f"{spent[cause.kind]} failures by {cause.kind}, more than {BUDGET[cause.kind]}"
    return ""


def to_quarantine(situation: Situation) -> dict[str, str]:
    """Nodes to set apart now, and the reasons."""
    blamed = situation.attempts[-1].cause.node
    if blamed is None or blamed in situation.quarantined:
        return {}
    if situation.strikes.get(blamed, 0) >= STRIKES:
        return {blamed: f"{situation.strikes[blamed]} strikes within a day"}
    recent = situation.attempts[-SHORT_ATTEMPTS:]
    short = [one for one in recent if one.ended_unix_s - one.started_unix_s < SHORT_S]
    times = sum(one.cause.node == blamed for one in short)
    if len(recent) == SHORT_ATTEMPTS and times >= STRIKES:
        return {blamed: f"to blame for {times} of the last {SHORT_ATTEMPTS} short attempts"}
    return {}


def _is_same(before: PastAttempt, now: PastAttempt) -> bool:
    is_known = bool(now.cause.fingerprint) and now.step is not None
    same = (before.cause.fingerprint, before.step) == (now.cause.fingerprint, now.step)
    return is_known and same


def _chosen(situation: Situation, barred: set[str]) -> tuple[str, ...]:
    """The nodes in their order; a spare takes the place of one that is barred."""
    spares = [name for name in situation.spares if name not in barred]
    chosen: Sequence[str | None] = [
        name if name not in barred else (spares.pop(0) if spares else None)
        for name in situation.nodes
    ]
    return tuple(name for name in chosen if name)


def cause_of(state: State, failure: Failure, collective: str = "") -> Cause:
    """The cause of an attempt that was lost, hung or crashed.

    `collective`: of a hung one, the collective that somebody never entered, where it is known.
    """
    text = f"rank {failure.rank}: {failure.error}" if failure.rank is not None else failure.error
    kind, is_nodes = _class_of(state, failure)
    node = failure.node if is_nodes else None
    fingerprint = collective if kind is CauseClass.HARDWARE else failure.error
    return Cause(state.value, kind, text, node, fingerprint)


def checkpoint_to_use(failure: Failure) -> str | None:
    """An earlier checkpoint that the trainer asks to resume from: a later one is damaged."""
    found = (failure.remedy or {}).get(_CHECKPOINT)
    return str(found) if found else None


def _class_of(state: State, failure: Failure) -> tuple[CauseClass, bool]:
    """The class, and whether the node where it showed is to blame for it."""
    error = failure.error
    if state is State.LOST:
        return CauseClass.HARDWARE, True
    if state is State.HUNG:
        return CauseClass.HARDWARE, False  # it may be a program's fault: no node pays for it
    if _DISK.search(error):
        return CauseClass.DISK, False
    remedies = {name for name in failure.remedy or {} if name != _CHECKPOINT}
    if remedies or _REQUEST.search(error):
        return CauseClass.REQUEST, False
    if _NODES_FAULT.search(error):
        return CauseClass.HARDWARE, True
    if _LINKS_FAULT.search(error):
        return CauseClass.HARDWARE, False
    return CauseClass.PROGRAM, False
