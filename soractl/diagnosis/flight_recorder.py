"""Looks at all ranks of a run: each rank's collectives and Python stacks, asked for by signal.

The ranks' side threads answer (`trainer.rank_trace`), also while training hangs. torch's flight
recorder numbers the collectives of each process group; equal numbers on two ranks are the same
collective.
"""

import base64
import gzip
import json
import shlex
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from soractl.errors import Fault, FaultKind
from soractl.remote.fan_out import run_everywhere
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.remote.scripts import script, sections
from soractl.runs.record import AttemptRecord
from trainer.run_dir import FULL_TRACE_SIGNAL, SHORT_TRACE_SIGNAL, AttemptDir

ANSWER_S = 3.0  # what a rank may take to write its trace; 1.7 s was seen on a busy machine
SAVE_GROUP = "save"  # of the thread that writes checkpoints
ROUND_TRIP_S = 4.0
NO_RANKS = Fault(FaultKind.FAILED, "it did not list its ranks")


@dataclass(frozen=True)
class Frame:
    """One call of a stack."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        """`trainer/step.py:88 TrainStep.run`."""
        return f"{'/'.join(self.file.split('/')[-2:])}:{self.line} {self.function}"


@dataclass(frozen=True)
class Stack:
    """One thread's calls, the innermost first."""

    thread: str
    frames: tuple[Frame, ...]
    is_main: bool = False


@dataclass(frozen=True)
class Collective:
    """One entry of a flight recorder."""

    group: str  # recorder and torch's pg_id, such as host:0; the same group on every rank
    number: int
    name: str  # all_reduce
    description: str  # of the group, such as save
    is_complete: bool
    on_main_thread: bool
    created_ns: int = 0  # by the rank's own clock

    def __str__(self) -> str:
        """`all_reduce 41 of the default group`."""
        description = "default" if self.description == "default_pg" else self.description
        return f"{self.name} {self.number} of the {description} group"


@dataclass(frozen=True, kw_only=True)
class RankLook:
    """One rank as it was at a look."""

    rank: int
    node: str
    pid: int | None = None  # None: it has no process
    state: str = ""  # the kernel's letter: R, S, D, T
    can_answer: bool = False  # it blocks the signal, so it was asked
    answered: bool = False
    enqueued: Mapping[str, int] = field(default_factory=dict)  # last collective, by group
    completed: Mapping[str, int] = field(default_factory=dict)
    collectives: tuple[Collective, ...] = ()  # oldest first; of a full look
    stacks: tuple[Stack, ...] = ()

    @property
    def main_stack(self) -> tuple[Frame, ...]:
        """The main thread's calls, the innermost first."""
        return next((stack.frames for stack in self.stacks if stack.is_main), ())


@dataclass(frozen=True)
class Look:
    """All ranks at one time."""

    ranks: tuple[RankLook, ...]
    taken_s: float  # this machine's monotonic clock when the ranks were asked
    faults: Mapping[str, Fault] = field(default_factory=dict)  # of nodes that could not be asked
    raw: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)  # the traces, by rank


def look(attempt: AttemptDir, record: AttemptRecord, remote: Remote, *, full: bool = False) -> Look:
    """All ranks now: sequence numbers and main stacks, or with `full` every recorded collective.

    A rank that gives no answer within ANSWER_S is part of it, and so is a node's fault.
    """
    number = FULL_TRACE_SIGNAL if full else SHORT_TRACE_SIGNAL
    path = attempt.rank_trace(0, full=full)
    names = (
        f"run_id={shlex.quote(record.run_id)}\ntraces={shlex.quote(str(path.parent))}\n"
        f"signal={number}\nsuffix={'-full' if full else ''}\nticks={ANSWER_S * 10:.0f}\n"
    )
    request = Request(("sh", "-s"), names + script("soractl.diagnosis", "ask_ranks.sh"))
    deadline_s = ANSWER_S + ROUND_TRIP_S
    began_s = time.monotonic()
    results = run_everywhere(record.nodes, lambda _: request, remote, deadline_s=deadline_s)
    return look_of(record, results, began_s)


def look_of(record: AttemptRecord, results: list[NodeResult], taken_s: float) -> Look:
    """A look from the answers of `ask_ranks.sh`."""
    ranks, raw = [], {}
    faults = {r.node.name: fault for r in results if (fault := _fault_in(r)) is not None}
    found = {one.rank: (one, trace) for result in results for one, trace in _ranks_of(result)}
    for rank in range(sum(record.ranks)):
        node = record.node_of_rank(rank)
        if node in faults:
            continue
        one, trace = found.get(rank, (RankLook(rank=rank, node=node), None))
        ranks.append(one)
        if trace is not None:
            raw[rank] = trace
    return Look(tuple(ranks), taken_s, faults, raw)


def rank_of_trace(trace: Mapping[str, Any], **known: Any) -> RankLook:
    """A rank by its trace; `known` are the other fields of RankLook."""
    main = str(trace["main_thread"])
    recorders = trace["recorders"]
    collectives = [
        _collective(kind, entry, main)
        for kind, dump in recorders.items()
        for entry in dump.get("entries", ())
        if not entry.get("is_p2p")
    ]
    return RankLook(
        answered=True,
        enqueued=_numbers(recorders, "last_enqueued_collective"),
        completed=_numbers(recorders, "last_completed_collective"),
        collectives=tuple(sorted(collectives, key=lambda one: one.created_ns)),
        stacks=tuple(
            Stack(
                stack["name"],
                tuple(Frame(str(f), int(line), str(name)) for f, line, name in stack["frames"]),
                is_main=stack["thread"] == main,
            )
            for stack in trace["stacks"]
        ),
        **known,
    )


def _fault_in(result: NodeResult) -> Fault | None:
    if result.ok and "ranks" not in sections(result.stdout):
        return NO_RANKS
    return result.problem


def _ranks_of(result: NodeResult) -> Iterator[tuple[RankLook, Mapping[str, Any] | None]]:
    lines = [line.split() for line in sections(result.stdout).get("ranks", ("", 0))[0].splitlines()]
    pids = {int(words[1]) for words in lines}
    for rank, pid, parent, state, can_answer, text in lines:
        if int(parent) in pids:
            continue  # a fork of the rank, with its command line
        known: dict[str, Any] = {
            "rank": int(rank),
            "node": result.node.name,
            "pid": int(pid),
            "state": state,
        }
        known["can_answer"] = can_answer == "1"
        trace = _unpacked(text)
        yield (RankLook(**known) if trace is None else rank_of_trace(trace, **known)), trace


def _unpacked(text: str) -> Mapping[str, Any] | None:
    """A trace; None if the rank gave none, or it was cut on its way."""
    with suppress(ValueError, EOFError, OSError, zlib.error):
        found: Mapping[str, Any] = json.loads(gzip.decompress(base64.b64decode(text)))
        return found
    return None


def _collective(kind: str, entry: Mapping[str, Any], main: str) -> Collective:
    description = str(entry["process_group"][1])
    # older recorders do not tell the thread
    on_main = str(entry["thread_id"]) == main if "thread_id" in entry else description != SAVE_GROUP
    return Collective(
        group=f"{kind}:{entry['pg_id']}",
        number=int(entry["collective_seq_id"]),
        name=str(entry["profiling_name"]).rpartition(":")[2].strip("_"),
        description=description,
        is_complete=bool(entry["retired"]) or entry["state"] == "completed",
        on_main_thread=on_main,
        created_ns=int(entry["time_created_ns"]),
    )


def _numbers(recorders: Mapping[str, Any], key: str) -> dict[str, int]:
    return {
        f"{kind}:{group}": max(0, int(status[key]))
        for kind, dump in recorders.items()
        for group, status in dump.get("pg_status", {}).items()
    }
