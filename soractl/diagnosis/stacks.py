"""Python stacks of all ranks and loader workers, taken from outside by py-spy and pystack.

py-spy (https://github.com/benfred/py-spy) reads every process; pystack
(https://github.com/bloomberg/pystack) takes seconds, so it reads the odd ones alone: it shows an
interpreter's lock that is held in C, and garbage collection. Where tracing is forbidden or the
tools are missing, the ranks' own side threads give their stacks.
"""

import base64
import gzip
import json
import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from soractl.diagnosis.flight_recorder import Frame, Look, Stack, look
from soractl.errors import Fault
from soractl.remote.fan_out import run_everywhere
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.remote.scripts import script, sections
from soractl.runs.record import AttemptRecord
from trainer.atomic_files import read_json
from trainer.run_dir import AttemptDir

TOOL_S = 6.0  # pystack took 3.5 s for a rank, on two busy cores
ROUND_TRIP_S = 4.0
MOST_ODD = 4  # processes that pystack reads on a node

_PYSTACK_THREAD = re.compile(r"^Traceback for thread (\d+) .*?\[(.*?)\] ", re.MULTILINE)
_FORBIDDEN = re.compile(
    r"Permission [Dd]enied|Operation not permitted|Failed to get process executable name"
)


@dataclass(frozen=True)
class ProcessStacks:
    """One process and its threads."""

    rank: int
    node: str
    pid: int
    role: str  # rank or worker
    state: str  # the kernel's letter
    stacks: tuple[Stack, ...] = ()
    flags: tuple[str, ...] = ()  # of its main thread, by pystack: Has the GIL, Garbage collecting
    error: str = ""


@dataclass(frozen=True)
class Stacks:
    """All processes of a run at one time."""

    processes: tuple[ProcessStacks, ...]
    faults: Mapping[str, Fault] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # tools that are missing, tracing that is forbidden


@dataclass(frozen=True)
class Entry:
    """Threads of several processes that stand at the same place."""

    thread: str
    role: str
    frames: tuple[Frame, ...]
    processes: tuple[ProcessStacks, ...]

    @property
    def is_main(self) -> bool:
        """The main thread's."""
        return any(stack.is_main and stack.frames == self.frames for stack in self._stacks)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of the processes, in order."""
        return tuple(sorted({process.rank for process in self.processes}))

    @property
    def _stacks(self) -> Iterable[Stack]:
        return (stack for process in self.processes for stack in process.stacks)


def take(
    attempt: AttemptDir,
    record: AttemptRecord,
    remote: Remote,
    own: Callable[[], Look],
    *,
    flags: bool = True,
) -> Stacks:
    """Stacks of all processes now; what could not be read on a node is a note or a fault.

    `flags` are those of pystack, which take seconds. `own` gives a full look, whose stacks stand
    in for those that cannot be read from outside.
    """
    results = _ask(attempt, record, remote, "py-spy", {})
    found = stacks_of(results)
    missing = {process.rank for process in found.processes if process.error}
    if found.notes or missing:
        found = _with_own(found, own())
    odd = odd_processes(found.processes) if flags else []
    if not odd:
        return found
    pids = {node.name: [p.pid for p in odd if p.node == node.name] for node in record.nodes}
    seen = flags_of(_ask(attempt, record, remote, "pystack", pids))
    processes = [replace(one, flags=seen.get((one.node, one.pid), ())) for one in found.processes]
    return replace(found, processes=tuple(processes))


def take_rounds(
    attempt: AttemptDir, record: AttemptRecord, remote: Remote, pause_s: float | None
) -> tuple[Stacks | None, Stacks]:
    """Stacks `pause_s` seconds ago, if that is wanted, and now."""

    def own() -> Look:
        return look(attempt, record, remote, full=True)

    before = None
    if pause_s is not None:
        before = take(attempt, record, remote, own, flags=False)
        time.sleep(pause_s)
    return before, take(attempt, record, remote, own)


def fold(stacks: Stacks) -> list[Entry]:
    """Equal stacks as one entry: ranks' main threads first, of these the odd ones first."""
    same: dict[tuple[str, str, tuple[Frame, ...]], list[ProcessStacks]] = {}
    for process in stacks.processes:
        for stack in process.stacks:
            name = "main" if stack.is_main else re.sub(r"[-_ ]?\d+.*$", "", stack.thread)
            same.setdefault((name, process.role, stack.frames), []).append(process)
    entries = [
        Entry(name, role, frames, tuple(found)) for (name, role, frames), found in same.items()
    ]
    return sorted(
        entries,
        key=lambda one: (one.thread != "main", one.role != "rank", len(one.processes), one.ranks),
    )


def odd_processes(processes: Sequence[ProcessStacks]) -> list[ProcessStacks]:
    """Ranks whose main thread stands elsewhere than most; at most MOST_ODD on a node."""
    mains = [one for one in fold(Stacks(tuple(processes))) if one.thread == "main"]
    ranks = [one for one in mains if one.role == "rank"]
    odd = [process for entry in ranks[:-1] for process in entry.processes]
    if len(ranks) > 1 and len(ranks[0].processes) == len(ranks[-1].processes):
        odd += ranks[-1].processes  # no majority
    kept: dict[str, list[ProcessStacks]] = {}
    for process in odd:
        kept.setdefault(process.node, []).append(process)
    return [process for found in kept.values() for process in found[:MOST_ODD]]


def stacks_of(results: Sequence[NodeResult]) -> Stacks:
    """Stacks of each node, as `stacks.sh` printed them with py-spy."""
    processes: list[ProcessStacks] = []
    faults = {r.node.name: r.problem for r in results if r.problem is not None}
    notes = []
    for result in results:
        found = sections(result.stdout)
        if "missing" in found:
            notes.append(f"{result.node.name}: py-spy is not installed there")
        for rank, pid, role, state, _, text in _lines(result):
            known = ProcessStacks(int(rank), result.node.name, int(pid), role, state)
            processes.append(_read(known, _text(text)))
        if any(_FORBIDDEN.search(one.error) for one in processes if one.node == result.node.name):
            scope = found["ptrace"][0].strip()
            notes.append(f"{result.node.name}: tracing is forbidden (ptrace_scope {scope})")
    return Stacks(tuple(sorted(processes, key=lambda one: (one.rank, one.role))), faults, (*notes,))


def flags_of(results: Sequence[NodeResult]) -> dict[tuple[str, int], tuple[str, ...]]:
    """Flags that pystack found on the main threads, by node and process."""
    found = {}
    for result in results:
        for _, pid, _, _, _, text in _lines(result):
            for thread, flags in _PYSTACK_THREAD.findall(_text(text)):
                if thread == pid and flags:
                    found[result.node.name, int(pid)] = tuple(flags.split(","))
    return found


def _ask(
    attempt: AttemptDir,
    record: AttemptRecord,
    remote: Remote,
    tool: str,
    pids: Mapping[str, Sequence[int]],
) -> list[NodeResult]:
    path = _path_of(attempt)

    def request(node: Node) -> Request:
        names = (
            f"PATH={shlex.quote(path.get(node.name, ''))}${{PATH:+:$PATH}}\n"
            f"run_id={shlex.quote(record.run_id)}\ntool={tool}\nlimit_s={TOOL_S:g}\n"
            f"pids='{' '.join(map(str, pids.get(node.name, ())))}'\n"
        )
        return Request(("bash", "-s"), names + script("soractl.diagnosis", "stacks.sh"))

    nodes = [node for node in record.nodes if not pids or pids.get(node.name)]
    return run_everywhere(nodes, request, remote, deadline_s=TOOL_S + ROUND_TRIP_S)


def _path_of(attempt: AttemptDir) -> dict[str, str]:
    """The PATH of each node's ranks: the tools are installed where training is."""
    nodes = read_json(attempt.plan)["nodes"]
    return {node["name"]: node.get("environment", {}).get("PATH", "") for node in nodes}


def _lines(result: NodeResult) -> list[list[str]]:
    text, _ = sections(result.stdout).get("processes", ("", 0))
    return [line.split(" ") for line in text.splitlines()]


def _text(packed: str) -> str:
    return gzip.decompress(base64.b64decode(packed)).decode(errors="replace")


def _read(process: ProcessStacks, printed: str) -> ProcessStacks:
    try:
        threads = json.loads(printed)
    except ValueError:
        lines = printed.strip().splitlines() or ["py-spy gave no answer in time"]
        return replace(process, error=lines[0])
    stacks = [
        Stack(
            str(thread["thread_name"] or ""),
            tuple(Frame(f["filename"], int(f["line"]), f["name"]) for f in thread["frames"]),
            is_main=thread["os_thread_id"] == process.pid or thread["thread_name"] == "MainThread",
        )
        for thread in threads
    ]
    return replace(process, stacks=tuple(stacks))


def _with_own(found: Stacks, own: Look) -> Stacks:
    """The ranks' own stacks in place of those that could not be read from outside."""
    read = {one.rank: one for one in found.processes if one.role == "rank" and not one.error}
    workers = [one for one in found.processes if one.role != "rank"]
    ranks = [
        read.get(one.rank)
        or ProcessStacks(
            *(one.rank, one.node, one.pid or 0, "rank", one.state),
            stacks=one.stacks,
            error="" if one.answered else "it gives no answer, and it cannot be read from outside",
        )
        for one in own.ranks
    ]
    return replace(found, processes=(*ranks, *workers))
