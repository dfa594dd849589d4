"""The decision after a failed attempt: restart and where, wait, or give up. Pure.

Causes are those of `diagnosis.why`, so that the supervisor acts on what `why` shows. Each kind has
a budget of its own: a night of bad hardware does not use up what a program error may cost.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from soractl.diagnosis.signatures import CauseKind
from soractl.diagnosis.why import Explanation
from soractl.remote.folding import fold_lines
from soractl.runs.post_mortem import Failure
from soractl.supervise.states import State

STRIKES = 2  # of one node within a day
SHORT_ATTEMPTS = 3  # of the last so many, those that were short and one node's fault
SHORT_S = 600.0
NO_CHECKPOINT_ATTEMPTS = 3
STARTS_WITHIN_S = 1800.0
BUDGET = {
    CauseKind.HARDWARE: 50,
    CauseKind.NETWORK: 50,
    CauseKind.UNKNOWN: 50,  # hangs that nothing explains, ranks that somebody killed
    CauseKind.PROGRAM: 10,
    CauseKind.DATA: 10,
    CauseKind.REQUEST: 10,  # only likely ones; for those that are sure there is no other attempt
    CauseKind.DISK: 1,
}
_CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Cause:
    """Cause of an attempt's end, as far as it decides what follows."""

    state: str  # hung, crashed or lost
    kind: CauseKind
    text: str
    node: str | None = None  # the one to blame, if there is one
    fingerprint: str = ""  # equal for two failures of one cause: an exception, a collective
    name: str = ""  # as `why` has it: "a GPU fell off the bus (Xid 79)"
    is_sure: bool = True


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
    """Decision after a failed attempt."""
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
    """Reason for which another attempt would fail as well, or nothing."""
    attempts = situation.attempts
    last = attempts[-1]
    cause = last.cause
    if cause.kind is CauseKind.OPERATOR:
        return f"it was stopped on purpose: {cause.text}"
    if cause.kind is CauseKind.REQUEST and cause.is_sure:
        return f"no restart cures this: {cause.text}"
    if cause.kind is CauseKind.DISK and cause.is_sure:
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
        most = BUDGET[cause.kind]
        return f"{spent[cause.kind]} failures of kind {cause.kind}, more than {most}"
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


def cause_of(state: State, failure: Failure, found: Explanation) -> Cause:
    """The cause of an attempt that was lost, hung or crashed, as `why` explains it.

    A cause that nobody knows has the words of the first failure.
    """
    rank, words = failure.rank, failure.error
    if found.root is not None:
        rank, words = found.root.rank, found.root.text
    return Cause(
        state.value,
        found.kind,
        text=words if rank is None or words.startswith("rank ") else f"rank {rank}: {words}",
        node=found.suspect,
        fingerprint=found.fingerprint,
        name=found.cause if found.root else "",
        is_sure=found.certainty == "sure",
    )


def checkpoint_to_use(failure: Failure) -> str | None:
    """An earlier checkpoint that the trainer asks to resume from: a later one is damaged."""
    found = (failure.remedy or {}).get(_CHECKPOINT)
    return str(found) if found else None
