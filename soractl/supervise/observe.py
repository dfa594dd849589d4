"""Observation of a supervised run: each look becomes a state; one look alone proves nothing. Pure.

Ages come from the watcher's own monotonic clock. A watcher that did not run for a while, or that
no node answers, is blind: what it did not see is nobody's fault.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from soractl.remote.folding import fold_names
from soractl.supervise.states import State
from soractl.supervise.step_clock import Limits, Phase, StepClock

GAP_S = 15.0  # between two looks: this process was stopped, or its machine asleep
PEER_GRACE_S = 3.0  # after one node failed the others usually follow
SILENT_S = 15.0  # nodes are asked every five seconds
# TCP doubles the time between its tries (RFC 6298): a connection that lost all packets for a while
# goes on within as long again after they pass, and Linux waits two minutes at most.
MENDING_MOST_S = 120.0
# Of nodes that are silent again and again, since the first of them answered and without a step.
EXCUSED_MOST_S = 2 * MENDING_MOST_S
BREAKER_S = 600.0
BREAKER_NODES = 3


@dataclass(frozen=True, kw_only=True)
class NodeLook:
    """One node in one look."""

    name: str
    exit_code: int | None = None
    answered: bool = True  # since the look before
    vanished: bool = False  # it answers, no process is left, and nothing says why
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at a run."""

    at_s: float  # monotonic
    nodes: tuple[NodeLook, ...]
    step: int | None = None
    phase: Phase = "training"
    failed: tuple[str, str] | None = None  # node and words of the first sign of a failure
    confirmed: bool = True  # all nodes were asked since the last sign of a failure
    stopped: bool = False  # ranks saved and left at a signal, or a person asked for that
    second_sign: str = ""  # such as "collectives stand still": a witness beside the step clock
    head_fault: str = ""  # this machine cannot read the run's folder: what it shows is no news


@dataclass(frozen=True)
class Verdict:
    """State of a run, and the node and reason that led to it."""

    state: State
    reason: str = ""
    node: str | None = None


@dataclass(frozen=True)
class Memory:
    """Memory of earlier looks."""

    clock: StepClock
    looked_s: float
    answered_s: Mapping[str, float] = field(default_factory=dict)  # by node
    turned_bad_s: Mapping[str, float] = field(default_factory=dict)  # by node, while it is bad
    mended_s: float = -math.inf  # when connections of nodes that were silent must have gone on
    excused_s: float = math.inf  # until when silences excuse that there is no step
    failed_s: float | None = None  # the first sign of a failure
    phase: Phase | None = None  # at the last look: the time since then belongs to it


def first_memory(now_s: float, nodes: Sequence[str], before: Memory | None = None) -> Memory:
    """Memory at the beginning of an attempt; `before` is that of the attempt before."""
    answered = dict.fromkeys(nodes, now_s)
    if before is None:
        return Memory(StepClock(None, now_s), now_s, answered)
    return Memory(before.clock.next_attempt(now_s), now_s, answered, before.turned_bad_s)


def observe(memory: Memory, look: Look, limits: Limits) -> tuple[Memory, Verdict]:
    """The state that a look shows, and the memory for the next one."""
    gap_s = look.at_s - memory.looked_s
    if gap_s > GAP_S:
        return _rebased(memory, look.at_s, gap_s), Verdict(
            State.BLIND, f"the supervisor did not run for {gap_s:.0f} s"
        )
    if look.head_fault:
        words = f"this machine cannot read the run's folder: {look.head_fault}"
        return _rebased(memory, look.at_s, gap_s), Verdict(State.BLIND, words)
    memory = _remembered(memory, look)
    verdict = (
        _ended(look) or _broken(memory, look, limits) or _silent_or_still(memory, look, limits)
    )
    return memory, verdict


def _rebased(memory: Memory, now_s: float, gap_s: float) -> Memory:
    answered = {node: at_s + gap_s for node, at_s in memory.answered_s.items()}
    failed_s = None if memory.failed_s is None else memory.failed_s + gap_s
    return replace(
        memory,
        clock=memory.clock.shifted(gap_s),
        looked_s=now_s,
        answered_s=answered,
        failed_s=failed_s,
    )


def _remembered(memory: Memory, look: Look) -> Memory:
    now_s = look.at_s
    clock = memory.clock.at(now_s, look.step, memory.phase)
    answered = {node.name: now_s for node in look.nodes if node.answered}
    silences = [now_s - memory.answered_s.get(name, now_s) for name in answered]
    memory = _excused(memory, max(silences, default=0.0), now_s)
    memory = replace(
        memory,
        clock=clock,
        looked_s=now_s,
        phase=look.phase,
        excused_s=memory.excused_s if clock.seen_s == memory.clock.seen_s else math.inf,
        answered_s={**memory.answered_s, **answered},
    )
    bad = {node.name for node in look.nodes if node.vanished or _silent_s(memory, node) > SILENT_S}
    turned = {name: memory.turned_bad_s.get(name, now_s) for name in bad}
    here = {node.name for node in look.nodes}
    left_out = {name: at for name, at in memory.turned_bad_s.items() if name not in here}
    is_failed = bool(look.failed) or any(node.exit_code for node in look.nodes)
    failed_s = memory.failed_s if memory.failed_s is not None else now_s
    return replace(
        memory, turned_bad_s={**left_out, **turned}, failed_s=failed_s if is_failed else None
    )


def _excused(memory: Memory, silent_s: float, now_s: float) -> Memory:
    """Time for the connections of a node that answers again after a silence."""
    if silent_s <= SILENT_S:
        return memory
    return replace(
        memory,
        mended_s=max(memory.mended_s, now_s + min(silent_s, MENDING_MOST_S)),
        excused_s=min(memory.excused_s, now_s + EXCUSED_MOST_S),
    )


def _silent_s(memory: Memory, node: NodeLook) -> float:
    if node.exit_code is not None:  # its script wrote how it ended: nothing more comes
        return 0.0
    return memory.looked_s - memory.answered_s.get(node.name, memory.looked_s)


def _ended(look: Look) -> Verdict | None:
    if all(node.exit_code == 0 for node in look.nodes):
        return Verdict(State.FINISHED, "all nodes ended with exit code 0")
    gone = all(node.exit_code is not None or node.vanished for node in look.nodes)
    return Verdict(State.FINISHED, "stopped on purpose") if gone and look.stopped else None


def _broken(memory: Memory, look: Look, limits: Limits) -> Verdict | None:
    """A node without its processes, a long silent one, or a failure: unless too many are bad."""
    found = _lost(memory, look, limits) or _crashed(memory, look)
    if found and look.stopped:  # a person's stop takes its time, and needs no help
        return None
    if found is None:
        return None
    bad = [name for name, at in memory.turned_bad_s.items() if look.at_s - at < BREAKER_S]
    # One node of three is a third of them, and yet the usual case of one that is lost.
    if len(bad) >= BREAKER_NODES or (len(bad) >= 2 and 3 * len(bad) >= len(look.nodes)):
        names = fold_names(bad)
        return Verdict(
            State.BLIND, f"{names} turned bad within ten minutes: too many to be their own fault"
        )
    return found


def _lost(memory: Memory, look: Look, limits: Limits) -> Verdict | None:
    for node in look.nodes:
        if node.vanished:
            reason = "no process of the run is left, and nothing says why"
            return Verdict(State.LOST, reason, node.name)
    seen = [node for node in look.nodes if _silent_s(memory, node) <= SILENT_S]
    limit_s = memory.clock.hung_after_s("training", limits)
    without_step_s = memory.clock.age_s(look.at_s)
    for node in look.nodes:
        silent_s = _silent_s(memory, node)
        overdue = min(silent_s, without_step_s) > limit_s
        explains = memory.failed_s is not None and silent_s > SILENT_S
        if seen and node not in seen and (overdue or explains):
            reason = f"no answer for {silent_s:.0f} s ({node.fault})"
            return Verdict(State.LOST, reason, node.name)
    return None


def _crashed(memory: Memory, look: Look) -> Verdict | None:
    if memory.failed_s is None or look.at_s - memory.failed_s < PEER_GRACE_S:
        return None
    if not look.confirmed:
        return None
    # Who gave no answer since may be why the others fail: it is lost once it was silent for long.
    if any(node.fault and 0.0 < _silent_s(memory, node) <= SILENT_S for node in look.nodes):
        return None
    failed = [(node.name, f"exit code {node.exit_code}") for node in look.nodes if node.exit_code]
    node, words = look.failed or failed[0]
    return Verdict(State.CRASHED, words, node)


def _silent_or_still(memory: Memory, look: Look, limits: Limits) -> Verdict:
    silent = [node for node in look.nodes if _silent_s(memory, node) > SILENT_S]
    clock, age_s = memory.clock, memory.clock.age_s(look.at_s)
    still_s = clock.suspect_after_s(look.phase, limits)
    if silent and len(silent) == len(look.nodes) and age_s > SILENT_S:
        return Verdict(State.BLIND, f"no node answers ({silent[0].fault})")
    no_step = f"no step for {age_s:.0f} s"
    ago_s = look.at_s - clock.p95_s  # what went on at the last moment has a step to make
    is_excused = ago_s < memory.excused_s and bool(silent or ago_s < memory.mended_s)
    if not (is_excused or look.stopped) and memory.failed_s is None:
        if look.second_sign and age_s > still_s:
            return Verdict(State.HUNG, f"{no_step}, and {look.second_sign}")
        if age_s > clock.hung_after_s(look.phase, limits):
            return Verdict(State.HUNG, no_step)
    if silent:
        node = silent[0]
        reason = f"no answer for {_silent_s(memory, node):.0f} s ({node.fault})"
        return Verdict(State.SUSPECT, reason, node.name)
    if age_s > still_s:
        return Verdict(State.SUSPECT, no_step)
    return Verdict(State(look.phase))
