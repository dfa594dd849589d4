"""Selection of processes: those of a run, of every run of mine, or by a pattern."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from soractl.remote.nodes import Node

OWN_TOOLS = ("ssh", "sshd", "soractl", "sudo")


@dataclass(frozen=True)
class Process:
    """A process on a node, as the kernel describes it."""

    node: Node
    pid: int
    ppid: int
    sid: int
    user: str | None
    run_id: str | None
    rank: int | None
    command: str
    state: str  # one letter, as ps shows it; D waits in the kernel and cannot be killed
    started: int  # clock ticks after boot
    role: Literal["rank", "worker", "other"] = "other"

    @property
    def is_torchrun(self) -> bool:
        """The elastic agent, which starts a node's ranks."""
        words = self.command.split()
        by_name = any(word.rpartition("/")[2] == "torchrun" for word in words[:2])
        return by_name or words[1:3] == ["-m", "torch.distributed.run"]


@dataclass(frozen=True)
class Selection:
    """Selection of processes: of one run, of every run of mine, or by a pattern."""

    run_id: str | None = None
    pattern: str | None = None  # a regular expression on the command line; run ids do not matter
    sudo: bool = False  # other users' processes too


def select(processes: Iterable[Process], own_pid: int, which: Selection) -> list[Process]:
    """The selected processes, oldest first.

    Those that lead to our own shell on the node are never among them.
    """
    by_pid = {process.pid: process for process in processes}
    ours = _line_of(by_pid, own_pid)
    me = by_pid[own_pid].user if own_pid in by_pid else None
    there = [
        process
        for process in by_pid.values()
        if process.pid not in ours
        and own_pid not in _line_of(by_pid, process.pid)
        and (which.sudo or process.user == me)
    ]
    if which.pattern is not None:
        chosen = _matching(there, by_pid, which.pattern)
    else:
        chosen = _of_run(there, by_pid, which.run_id)
    chosen.sort(key=lambda process: (process.started, process.pid))
    return [replace(process, role=_role(process, by_pid)) for process in chosen]


def _of_run(
    there: Sequence[Process], by_pid: dict[int, Process], run_id: str | None
) -> list[Process]:
    def belongs(process: Process) -> bool:
        return process.run_id is not None and run_id in (None, process.run_id)

    sessions = {process.sid for process in there if belongs(process)}
    # A child that lost the variable is known by its session, where the run itself began that.
    sessions = {sid for sid in sessions if sid not in by_pid or belongs(by_pid[sid])}
    return [
        process
        for process in there
        if belongs(process) or (process.run_id is None and process.sid in sessions)
    ]


def _matching(there: Sequence[Process], by_pid: dict[int, Process], pattern: str) -> list[Process]:
    hits = {
        process.pid
        for process in there
        if re.search(pattern, process.command) and not _is_tool(process)
    }
    return [process for process in there if hits & set(_line_of(by_pid, process.pid))]


def _is_tool(process: Process) -> bool:
    words = process.command.split()[:2]
    return any(word.rpartition("/")[2].rstrip(":") in OWN_TOOLS for word in words)


def _role(process: Process, by_pid: dict[int, Process]) -> Literal["rank", "worker", "other"]:
    if process.rank is None:
        return "other"
    parent = by_pid.get(process.ppid)
    return "worker" if parent is not None and parent.rank == process.rank else "rank"


def _line_of(by_pid: dict[int, Process], pid: int) -> list[int]:
    """A process, its parent, and so on up."""
    line: list[int] = []
    while pid in by_pid and pid not in line:
        line.append(pid)
        pid = by_pid[pid].ppid
    return line
