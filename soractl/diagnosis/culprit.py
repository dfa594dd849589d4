"""The rank for which the others wait, found by comparing two looks at all ranks. Pure.

All ranks enter the same collectives in the same order, so the one that has entered the fewest is
the one that is waited for. Compared are sums over the groups of the main thread, since the sources
of broadcasts run ahead without waiting. A single look names nobody: ranks that are healthy differ
by a collective or two.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from soractl.diagnosis.flight_recorder import Collective, Frame, Look, RankLook
from soractl.remote.folding import fold_names
from soractl.terminal import text

WHERE_FRAMES = 5
OWN_CODE = "/trainer/"
JOINING = "init_process_group"
SAVER_THREAD = "checkpoint"  # how its name begins
SAVER_WAIT = "Saver.wait"  # of the trainer: a save begins when the last one is on disk


class VerdictKind(StrEnum):
    """Kinds of verdicts; the first four name somebody."""

    GONE = "gone"  # a rank has no process
    SILENT = "silent"  # a rank gives no answer: stopped, or the interpreter is held in C
    LAGGING = "lagging"  # a rank has not entered the collective in which others wait
    SAVING = "saving"  # the same, among the threads that write checkpoints
    SYMMETRIC = "symmetric"  # all ranks stand at the same place
    MOVING = "moving"  # collectives go on, or a rank answers one time only: look again
    UNSEEN = "unseen"  # nodes could not be asked, so that nothing follows


@dataclass(frozen=True)
class Verdict:
    """Result of comparing two looks."""

    kind: VerdictKind
    ranks: tuple[int, ...] = ()  # who is waited for (of MOVING, by a save); SYMMETRIC: who waits
    nodes: tuple[str, ...] = ()  # theirs
    collective: Collective | None = None  # never entered by them; of SYMMETRIC, not completed
    is_inferred: bool = False  # the collective is the oldest one that the others wait in
    where: tuple[str, ...] = ()  # the innermost call of the first of them, then the trainer's own
    reason: str = ""

    @property
    def names_somebody(self) -> bool:
        """A rank is to blame."""
        return self.kind in _GUILTY

    def __str__(self) -> str:
        """One sentence for an operator."""
        return _SENTENCES[self.kind](self)


def verdict(first: Look, second: Look) -> Verdict:
    """Verdict of two looks, some seconds apart and both with full traces."""
    if unseen := tuple({**first.faults, **second.faults}):
        return Verdict(VerdictKind.UNSEEN, nodes=unseen, reason=_fault(first, second, unseen[0]))
    ranks = second.ranks
    if gone := [one for one in ranks if one.pid is None]:
        reason = "it has no process" if len(gone) < len(ranks) else "no process is left"
        return _blame(VerdictKind.GONE, gone, ranks, reason=reason)
    before = {one.rank: one for one in first.ranks}
    main = _main_groups(ranks)
    side = {group for one in ranks for group in one.enqueued} - main
    if any(_moved(before[one.rank], one, main) for one in ranks):
        return _moving(ranks, before, side)
    if silent := [one for one in ranks if not one.answered]:
        return _blame(VerdictKind.SILENT, silent, ranks, reason=_why_silent(silent[0]))
    lagging = _least(ranks, main)
    if not any(_place(one, main) for one in ranks):
        return _in_the_start(ranks, before)
    if lagging and not _wait_inside(lagging, ranks, main):
        behind = _least(ranks, side)
        waits = all(_waits_for_its_save(one) for one in (*behind, *lagging))
        slowed = all(_is_slowed_by_its_save(before[one.rank], one) for one in lagging)
        if behind and (waits or (slowed and behind == lagging)):
            return _blame(VerdictKind.SAVING, behind, ranks, groups=side)
        return _blame(VerdictKind.LAGGING, lagging, ranks, groups=main)
    if any(_moved(before[one.rank], one, side) for one in ranks):
        return Verdict(VerdictKind.MOVING)
    if behind := _least(ranks, side):
        return _blame(VerdictKind.SAVING, behind, ranks, groups=side)
    return _symmetric(ranks)


def _moving(ranks: Sequence[RankLook], before: Mapping[int, RankLook], side: set[str]) -> Verdict:
    """Training goes on; the save beside it may wait for a rank all the same."""
    stands = not any(_moved(before[one.rank], one, side) for one in ranks)
    if stands and all(one.answered for one in ranks) and (behind := _least(ranks, side)):
        found = _blame(VerdictKind.MOVING, behind, ranks, groups=side)
        if found.collective is not None and not found.collective.is_complete:
            return found
    return Verdict(VerdictKind.MOVING)


def _main_groups(ranks: Sequence[RankLook]) -> set[str]:
    return {one.group for rank in ranks for one in rank.collectives if one.on_main_thread}


def _place(rank: RankLook, groups: Iterable[str]) -> int:
    return sum(rank.enqueued.get(group, 0) for group in groups)


def _least(ranks: Sequence[RankLook], groups: Iterable[str]) -> list[RankLook]:
    """The ranks that have entered fewer collectives of these groups than others have."""
    places = {one.rank: _place(one, groups) for one in ranks}
    least = min(places.values())
    return [one for one in ranks if places[one.rank] == least < max(places.values())]


def _moved(before: RankLook, after: RankLook, groups: Iterable[str]) -> bool:
    if before.answered != after.answered:
        return True
    return any(before.enqueued.get(group) != after.enqueued.get(group) for group in groups)


def _wait_inside(
    lagging: Sequence[RankLook], ranks: Sequence[RankLook], groups: Iterable[str]
) -> bool:
    """They wait in a collective that all have entered: gathers let the other ranks go on."""
    return all(
        any(
            _is_pending(one, group) and all(one.enqueued[group] <= _at(r, group) for r in ranks)
            for group in groups
        )
        for one in lagging
    )


def _waits_for_its_save(rank: RankLook) -> bool:
    return any(frame.function == SAVER_WAIT for frame in rank.main_stack)


def _is_slowed_by_its_save(before: RankLook, after: RankLook) -> bool:
    """Its training goes on, late, while the thread that saves stays where it is."""
    return _functions(before.main_stack) != _functions(after.main_stack) and (
        _functions(_saver_stack(before)) == _functions(_saver_stack(after)) != ()
    )


def _functions(stack: Sequence[Frame]) -> tuple[str, ...]:
    return tuple(frame.function for frame in stack)


def _saver_stack(rank: RankLook) -> Sequence[Frame]:
    named = (one.frames for one in rank.stacks if one.thread.startswith(SAVER_THREAD))
    return next(named, ())


def _at(rank: RankLook, group: str) -> int:
    return rank.enqueued.get(group, 0)


def _is_pending(rank: RankLook, group: str) -> bool:
    """The last collective of a group has not completed; torch's count alone may stay one behind."""
    last = rank.enqueued.get(group, 0)
    ended = {one.number for one in rank.collectives if one.group == group and one.is_complete}
    return rank.completed.get(group, 0) < last and last not in ended


def _blame(
    kind: VerdictKind,
    guilty: Sequence[RankLook],
    ranks: Sequence[RankLook],
    *,
    groups: Iterable[str] = (),
    reason: str = "",
) -> Verdict:
    others = [one for one in ranks if one not in guilty and one.answered]
    groups = set(groups)
    waited_for = _next(guilty[0], others, groups) if groups else _oldest_pending(others)
    return Verdict(
        kind,
        ranks=tuple(one.rank for one in guilty),
        nodes=tuple(dict.fromkeys(one.node for one in guilty)),
        collective=waited_for,
        is_inferred=not groups,
        where=_where(guilty[0], kind),
        reason=reason,
    )


def _next(guilty: RankLook, others: Sequence[RankLook], groups: Iterable[str]) -> Collective | None:
    """The first collective that others have entered and it has not, as the foremost rank saw it."""
    for other in sorted(others, key=lambda one: -_place(one, groups)):
        for one in other.collectives:
            if one.group in groups and one.number > _at(guilty, one.group):
                return one
    return None


def _oldest_pending(ranks: Sequence[RankLook]) -> Collective | None:
    for rank in ranks:
        for one in rank.collectives:
            if not one.is_complete:
                return one
    return None


def _in_the_start(ranks: Sequence[RankLook], before: Mapping[int, RankLook]) -> Verdict:
    """No collective yet: ranks that have not begun to join are waited for by those that have.

    While nobody waits, whose stack has changed is on its way.
    """
    joining = [one for one in ranks if any(f.function == JOINING for f in one.main_stack)]
    others = [one for one in ranks if one not in joining]
    if joining and others:
        reason = "it has not joined the process group"
        return _blame(VerdictKind.LAGGING, others, ranks, reason=reason)
    if others and any(before[one.rank].main_stack != one.main_stack for one in ranks):
        return Verdict(VerdictKind.MOVING)
    return _symmetric(ranks)


def _symmetric(ranks: Sequence[RankLook]) -> Verdict:
    pending = {one.rank: found for one in ranks if (found := _oldest_pending([one])) is not None}
    waiting = [one for one in ranks if one.rank in pending] or list(ranks)
    return Verdict(
        VerdictKind.SYMMETRIC,
        ranks=tuple(one.rank for one in waiting),
        nodes=tuple(dict.fromkeys(one.node for one in waiting)),
        collective=next(iter(pending.values()), None),
        where=_where(waiting[0], VerdictKind.SYMMETRIC),
    )


def _where(rank: RankLook, kind: VerdictKind) -> tuple[str, ...]:
    saver = _saver_stack(rank) if kind in (VerdictKind.SAVING, VerdictKind.MOVING) else ()
    return shown(saver or rank.main_stack)


def shown(stack: Sequence[Frame]) -> tuple[str, ...]:
    """The innermost call of a stack, then the trainer's own."""
    own = [frame for frame in stack[1:] if OWN_CODE in frame.file]
    return tuple(str(frame) for frame in [*stack[:1], *own][:WHERE_FRAMES])


def _why_silent(rank: RankLook) -> str:
    if rank.state in "Tt":
        return "it is stopped (state T): a signal or a debugger holds it"
    if rank.state == "D":
        return "it waits in the kernel (state D), as for a disk that does not answer"
    if not rank.can_answer:
        return "it has not begun to answer"
    return "its process lives; C code holds the interpreter's lock"


def _fault(first: Look, second: Look, node: str) -> str:
    return str({**first.faults, **second.faults}[node])


def _who(found: Verdict) -> str:
    ranks = "rank" if len(found.ranks) == 1 else "ranks"
    return f"{ranks} {ranges(found.ranks)} on {fold_names(found.nodes)}"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in few words.

    >>> ranges([0, 2, 3, 4, 5])
    '0,2-5'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _verb(found: Verdict, one: str, more: str) -> str:
    return one if len(found.ranks) == 1 else more


def _waited_for(found: Verdict) -> str:
    if found.collective is None:
        verb = _verb(found, "is", "are")
        return f"{_who(found)} {verb} waited for: {found.reason}" if found.reason else _who(found)
    return f"{_who(found)} never entered {found.collective}, in which the others wait"


def _movement(found: Verdict) -> str:
    if found.collective is None:
        return "collectives go on; nothing hangs"
    # Ranks write for different times: of a save that is well, some wait for others too.
    verb = _verb(found, "has", "have")
    return (
        f"training goes on; for its save, {_who(found)} {verb} not yet entered {found.collective}"
    )


def _silence(found: Verdict) -> str:
    waiting = f"; the others wait in {found.collective}" if found.collective else ""
    return f"{_who(found)} {_verb(found, 'gives', 'give')} no answer: {found.reason}{waiting}"


def _stand(found: Verdict) -> str:
    if found.collective is None:
        return "all ranks stand at the same place, outside collectives"
    return f"all ranks have entered {found.collective}; it does not complete on {_who(found)}"


_GUILTY = (VerdictKind.GONE, VerdictKind.SILENT, VerdictKind.LAGGING, VerdictKind.SAVING)
_SENTENCES: Mapping[VerdictKind, Callable[[Verdict], str]] = {
    VerdictKind.GONE: lambda found: f"{_who(found)}: {found.reason}",
    VerdictKind.SILENT: _silence,
    VerdictKind.LAGGING: _waited_for,
    VerdictKind.SAVING: _waited_for,
    VerdictKind.SYMMETRIC: _stand,
    VerdictKind.MOVING: _movement,
    VerdictKind.UNSEEN: lambda found: (
        f"{text.count(len(found.nodes), 'node')} could not be asked, so nothing follows: "
        f"{found.nodes[0]}: {found.reason}"
    ),
}
