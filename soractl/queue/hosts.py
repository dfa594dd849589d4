"""Nodes that a queue names: `job:12` and `partition:gpu` where a command takes hosts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from soractl.errors import ExitCode, SoractlError

if TYPE_CHECKING:
    from soractl.queue.interface import Queue


@dataclass(frozen=True)
class Hosts:
    """Hosts as every command reads them, and what is to be known of them."""

    names: str | None
    notes: tuple[str, ...] = ()


def named(hosts: str | None) -> Hosts:
    """The same hosts; nodes in place of a job or a partition. SoractlError where it has none."""
    kind, colon, name = (hosts or "").partition(":")
    if not colon or kind not in ("job", "partition"):
        return Hosts(hosts)
    from soractl.queue.interface import DEFAULT
    from soractl.queue.kinds import QUEUES
    from soractl.remote.connections import Connections

    with Connections() as remote:
        queue = QUEUES[DEFAULT](remote)
        return _of_job(name, queue) if kind == "job" else _of_partition(name, queue)


def _of_job(name: str, queue: "Queue") -> Hosts:
    if not name.isdecimal():
        raise SoractlError(f"{name!r} is no job's number", hint="`squeue --me` lists your jobs")
    entry = queue.entry_now(int(name))
    if entry is None or not entry.nodes or entry.is_waiting:
        state = entry.in_words if entry else "not in the queue"
        raise SoractlError(
            f"job {name} has no nodes: it is {state}", exit_code=ExitCode.NOTHING_SUITABLE
        )
    return Hosts(f"{entry.nodes},")


def _of_partition(name: str, queue: "Queue") -> Hosts:
    nodes = queue.nodes(name)
    if not nodes:
        raise SoractlError(
            f"there is no partition {name}, or it has no nodes",
            hint="`sinfo -s` lists the partitions",
            exit_code=ExitCode.NOTHING_SUITABLE,
        )
    from soractl.queue.drain import drained

    return Hosts(",".join(node.name for node in nodes) + ",", tuple(drained(nodes)))
