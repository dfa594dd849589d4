"""Lines and JSON of `stacks`, `diagnose` and `why`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from soractl.diagnosis.case_file import Explained
from soractl.diagnosis.culprit import ranges
from soractl.diagnosis.evidence import Evidence
from soractl.diagnosis.stacks import Entry, Stacks, fold, odd_processes
from soractl.diagnosis.why import Finding
from soractl.remote.folding import fold_names
from soractl.terminal import text
from soractl.terminal.text import span

FRAMES = 12  # of a stack
CLOCK_S = 1.0  # an offset that is worth a line
NO_CAUSE = (
    "read the logs of all nodes: `soractl logs --node NODE`",
    "if it hangs again, `soractl diagnose` before it is killed",
)
INSTALL = "pip install py-spy pystack"
ALLOW = "sudo sysctl kernel.yama.ptrace_scope=0"


def stacks_lines(now: Stacks, before: Stacks | None = None, pause_s: float = 0.0) -> list[str]:
    """Lines of `stacks`: equal stacks as one entry, the odd ones first."""
    lines = [f"{node}: {fault}" for node, fault in now.faults.items()]
    lines += _notes(now)
    earlier = _places(before) if before else set()
    for entry in fold(now):
        still = _places_of(entry) <= earlier if before else False
        lines += _entry_lines(entry, f", the same {span(pause_s)} before" if still else "")
    lines += [f"rank {one.rank} on {one.node}: {one.error}" for one in now.processes if one.error]
    return lines or ["no rank runs"]


def stacks_json(now: Stacks, before: Stacks | None = None) -> dict[str, Any]:
    """The same for programs."""
    rounds = [stacks for stacks in (before, now) if stacks]
    return {
        "rounds": [[asdict(process) for process in stacks.processes] for stacks in rounds],
        "notes": list(now.notes),
        "faults": {node: str(fault) for node, fault in now.faults.items()},
    }


def evidence_lines(found: Evidence) -> list[str]:
    """Lines of `diagnose`: the verdict first, then what else is odd, then the folder."""
    rows: list[tuple[str, str]] = [("verdict", str(found.verdict))]
    if found.verdict.where:
        rows.append(("it is in", " < ".join(found.verdict.where[:3])))
    if odd := [one for one in odd_processes(found.stacks[1].processes) if one.flags]:
        rows += [(f"rank {one.rank}", ", ".join(one.flags).lower()) for one in odd]
    rows += [("link", str(link)) for link in found.links]
    for one in found.ras or ():
        rows += [
            ("NCCL RAS", f"rank {rank.rank} (process {rank.pid} on {rank.host}) lags")
            for rank in one.lagging
        ]
    rows += [
        ("clock", f"{node} {offset.value:+.2f} s, at most {offset.bound:.2f} s wrong")
        for node, offset in found.offsets.items()
        if offset.surely_above(CLOCK_S)
    ]
    rows += [("kernel", f"{one.node}: {one.kernel[-1]}") for one in found.facts if one.kernel]
    rows += [(one.node, str(one.fault)) for one in found.facts if one.fault]
    rows.append(("evidence", f"{text.path(found.folder)}, taken in {found.seconds:.1f} s"))
    return [*text.pairs(rows), *_notes(found.stacks[1])]


def why_lines(found: Explained) -> list[str]:
    """Lines of `why`: the cause, who failed first and its words, what else fits, what to type."""
    explained = found.explanation
    if explained is None:
        return [f"attempt {found.attempt}: {found.state}; no failure is known"]
    root = explained.root
    rows = [("attempt", str(found.attempt))]
    if found.attempt != found.newest:
        rows = [("attempt", f"{found.attempt}; attempt {found.newest}: {found.state}")]
    rows.append(("cause", f"{explained.cause} ({explained.certainty})"))
    if root is not None:
        rank = f"rank {root.rank} on " if root.rank is not None else ""
        where, words = f"{rank}{root.node}" if root.node else "", _first_line(root.text)
        rows.append(("first", words if words.startswith(where) else f"{where}: {words}"))
    rows += [
        (str(one.role), f"{one.node or 'the run'}: {one.cause}: {_first_line(one.text)}")
        for one in _folded(explained.others)
    ]
    rows += [("do", advice) for advice in (root.advice if root else NO_CAUSE)]
    if explained.evidence:
        rows.append(("evidence", explained.evidence))
    return text.pairs(rows)


def why_json(found: Explained) -> dict[str, Any]:
    """The same for programs."""
    explained = found.explanation
    return {
        "attempt": found.attempt,
        "state": found.state,
        "newest_attempt": found.newest,
        "explanation": asdict(explained) if explained else None,
    }


def _folded(findings: Sequence[Finding]) -> list[Finding]:
    """One of each cause and role: sixty ranks lose their connections in sixty ways."""
    return list({(one.role, one.cause): one for one in reversed(findings)}.values())[::-1]


def _first_line(words: str) -> str:
    return next(iter(words.splitlines()), "")[:200]


def _notes(stacks: Stacks) -> list[str]:
    lines = [*stacks.notes]
    if any("not installed" in note for note in stacks.notes):
        lines.append(f"install it where training is installed: `{INSTALL}`; until then, the ranks'")
        lines[-1] += " own stacks are shown"
    if any("forbidden" in note for note in stacks.notes):
        lines.append(f"allow it there: `{ALLOW}`, or --cap-add SYS_PTRACE for a container; until")
        lines[-1] += " then, the ranks' own stacks are shown"
    return lines


def _entry_lines(entry: Entry, mark: str) -> list[str]:
    first = entry.processes[0]
    where = fold_names([one.node for one in entry.processes])
    ranks = ranges(entry.ranks)
    word = "rank" if len(entry.ranks) == 1 else "ranks"
    thread = f"{entry.thread} thread" if entry.role == "rank" else f"worker, {entry.thread} thread"
    alone = f" (process {first.pid}, state {first.state})" if len(entry.processes) == 1 else ""
    flags = sorted({flag.lower() for one in entry.processes for flag in one.flags})
    held = f", {', '.join(flags)}" if flags and entry.thread == "main" else ""
    shown = [f"    {frame}" for frame in entry.frames[:FRAMES]]
    return [f"{word} {ranks} on {where}, {thread}{alone}{held}{mark}:", *shown]


def _places(stacks: Stacks) -> set[tuple[Any, ...]]:
    return {place for entry in fold(stacks) for place in _places_of(entry)}


def _places_of(entry: Entry) -> set[tuple[Any, ...]]:
    return {(entry.thread, entry.frames, one.node, one.pid) for one in entry.processes}
