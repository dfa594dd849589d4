"""Record of an attempt: where it runs, as its `plan.json` says."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soractl.remote.nodes import Node, address, parse_node_list
from soractl.remote.ssh_command import SshOptions
from trainer.atomic_files import RunDirError, read_json
from trainer.checkpoint_dir import step_and_epoch
from trainer.run_dir import AttemptDir

MOST_UNIX_S = 1e11  # the year 5138: what lies beyond is damage


@dataclass(frozen=True)
class AttemptRecord:
    """Record of an attempt: its nodes, their ranks, and the way to reach them."""

    run_id: str  # SORACTL_RUN_ID of its processes
    nodes: tuple[Node, ...]
    ranks: tuple[int, ...]  # of each node
    ssh: SshOptions
    started_unix_s: float

    def node_of_rank(self, rank: int) -> str:
        """The name of the node that a rank runs on."""
        ends = itertools.accumulate(self.ranks)
        return next(node.name for node, end in zip(self.nodes, ends, strict=True) if rank < end)


def read_record(attempt: AttemptDir) -> AttemptRecord:
    """Record of an attempt, nodes in node rank order; RunDirError for a damaged plan."""
    plan = read_json(attempt.plan)
    try:
        nodes = tuple(_node(values) for values in plan["nodes"])
        ranks = tuple(int(values["ranks"]) for values in plan["nodes"])
        started = float(plan["started_unix_s"])
        if not nodes or not 0 <= started < MOST_UNIX_S:
            raise ValueError("no nodes, or no time")
        return AttemptRecord(str(plan["run_id"]), nodes, ranks, SshOptions(**plan["ssh"]), started)
    except (KeyError, TypeError, ValueError) as error:
        raise RunDirError(f"{attempt.plan} does not say where it runs: {error!r}") from None


def node_as_json(node: Node) -> dict[str, Any]:
    """A node as `plan.json` says it; `read_record` reads it back."""
    return {"name": node.name, "user": node.user, "port": node.port, "slots": node.slots}


def start_step(attempt: AttemptDir) -> int:
    """The step from which an attempt goes on, 0 for one that begins.

    RunDirError for a damaged plan.
    """
    plan = read_json(attempt.plan)
    try:
        start = plan["start"]
        position = step_and_epoch(Path(start["path"]).name) if start["kind"] == "resume" else None
    except (KeyError, TypeError) as error:
        raise RunDirError(f"{attempt.plan} does not say how it starts: {error!r}") from None
    return position[0] if position else 0


def _node(values: dict[str, Any]) -> Node:
    user, port = values["user"], values["port"]
    there = address(Node(values["name"], user=user, port=port))
    # Read anew: whether it is this machine depends on where we are now.
    slots = values["slots"]
    return replace(parse_node_list(there)[0], slots=None if slots is None else int(slots))
