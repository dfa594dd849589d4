"""What `kill` says: one line a node, and the count."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from soractl.processes.scan import NodeProcesses, Process, StopResult
from soractl.runs.kill import Killed
from soractl.terminal import text


def lines(killed: Killed | None) -> list[str]:
    """What was found and what became of it."""
    if killed is None:
        return ["no run is running"]
    if not any(node.processes or node.fault for node in killed.found):
        return [f"nothing of {killed.title} is running"]
    if killed.interrupted:
        return [*map(_found, killed.found), f"interrupted: nothing of {killed.title} was stopped"]
    if not killed.stopped:
        return [f"would stop {killed.title}", *map(_found, killed.found)]
    gone = sum(len(node.found) - len(node.survivors) for node in killed.stopped)
    return [*map(_stopped, killed.stopped), f"{killed.title}: {_processes(gone)} stopped"]


def told(killed: Killed, grace_s: float) -> str:
    """What is done to what was found, while it is waited for."""
    number = sum(len(node.processes) for node in killed.found)
    return f"{killed.title}: asking {_processes(number)} to end; KILL after {grace_s:g} s (--grace)"


def as_json(killed: Killed | None) -> dict[str, Any]:
    """The same for programs."""
    if killed is None:
        return {"target": None, "nodes": []}
    nodes = killed.stopped or killed.found
    return {"target": killed.title, "nodes": [_node_json(node) for node in nodes]}


def _node_json(node: NodeProcesses | StopResult) -> dict[str, Any]:
    fault = str(node.fault) if node.fault else None
    return {**asdict(replace(node, fault=None)), "node": node.node.name, "error": fault}


def _found(node: NodeProcesses) -> str:
    if node.fault:
        return f"{node.node.name}: {node.fault}"
    return f"{node.node.name}: {_kinds(node.processes)}"


def _stopped(node: StopResult) -> str:
    if node.fault and not node.found:
        return f"{node.node.name}: {node.fault}"
    told = [_kinds(node.found)]
    told += [f"{node.killed} by SIGKILL"] if node.killed else []
    told += [f"still there: {_process(process)}" for process in node.survivors]
    told += [f"GPU memory still held by {pid}" for pid in node.gpu_pids]
    told += [str(node.fault)] if node.fault else []
    return f"{node.node.name}: {'; '.join(told)}"


def _kinds(processes: Sequence[Process]) -> str:
    if not processes:
        return "nothing there"
    number = Counter(process.role for process in processes)
    kinds = [
        text.count(number[role], role) if role != "other" else f"{number[role]} other"
        for role in ("rank", "worker", "other")
        if number[role]
    ]
    return ", ".join(kinds)


def _process(process: Process) -> str:
    state = " in state D, which only the kernel ends" if process.state == "D" else ""
    return f"{process.pid}{state} {process.command[:80]}".rstrip()


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"
