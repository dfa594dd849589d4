"""Processes of runs on the nodes, found."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from soractl.cluster.rank_environment import RUN_ID
from soractl.errors import Fault
from soractl.processes.selection import Process, Selection, select
from soractl.remote.fan_out import everywhere
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.remote.scripts import script, sections, understood

SCAN = script("soractl.processes", "scan.sh")


@dataclass(frozen=True)
class NodeProcesses:
    """The selected processes of one node, or why they are not known."""

    node: Node
    processes: tuple[Process, ...] = ()
    fault: Fault | None = None


def find(
    nodes: Sequence[Node], remote: Remote, which: Selection, *, deadline_s: float
) -> list[NodeProcesses]:
    """The selected processes on every node, in the order of `nodes`."""
    return everywhere(
        nodes,
        lambda node: find_on(node, remote, which, deadline_s),
        lambda node, fault: NodeProcesses(node, fault=fault),
        deadline_s=deadline_s,
    )


def shell(which: Selection, script: str) -> Request:
    """A request that runs a script as the user, or as root with `sudo`."""
    sudo = ("sudo", "-n") if which.sudo else ()
    return Request((*sudo, "sh", "-s"), script)


def find_on(node: Node, remote: Remote, which: Selection, deadline_s: float) -> NodeProcesses:
    """The selected processes of one node."""
    result = remote(node, shell(which, SCAN), deadline_s)
    if not result.ok:
        return NodeProcesses(node, fault=result.problem)
    with understood():
        processes, own_pid = parse(result)
    return NodeProcesses(node, tuple(select(processes, own_pid, which)))


def parse(result: NodeResult) -> tuple[list[Process], int]:
    """All processes of a node that scan.sh saw, and the process id of its own shell."""
    found = sections(result.stdout)
    environ: dict[int, dict[str, str]] = {}
    for pid, text in _by_pid(found["environ"][0], "environ"):
        name, _, value = text.partition("=")
        environ.setdefault(pid, {})[name] = value
    commands: dict[int, list[str]] = {}
    for pid, word in _by_pid(found["cmdline"][0], "cmdline"):
        commands.setdefault(pid, []).append(word)
    owners = dict(line.split(" ", 1) for line in found["owners"][0].splitlines())
    processes = []
    for pid, stat in _by_pid(found["stat"][0], "stat"):
        fields = stat.rpartition(") ")[2].split()
        if len(fields) < 20 or fields[0] in "ZX":
            continue
        rank = environ.get(pid, {}).get("RANK", "")
        processes.append(
            Process(
                node=result.node,
                pid=pid,
                ppid=int(fields[1]),
                sid=int(fields[3]),
                user=owners.get(str(pid)),
                run_id=environ.get(pid, {}).get(RUN_ID),
                rank=int(rank) if rank.isdigit() else None,
                command=" ".join(commands.get(pid, ())),
                state=fields[0],
                started=int(fields[19]),
            )
        )
    return processes, found["self"][1]


def _by_pid(text: str, name: str) -> list[tuple[int, str]]:
    entries = re.findall(rf"^([0-9]+)/{name}:(.*)$", text, flags=re.MULTILINE)
    return [(int(pid), value) for pid, value in entries]
