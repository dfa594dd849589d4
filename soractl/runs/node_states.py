"""States of an attempt's nodes: exit codes on disk, living processes on the nodes."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from soractl.errors import Fault, FaultKind
from soractl.remote.fan_out import run_everywhere
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.runs.record import AttemptRecord
from trainer.run_dir import AttemptDir

LOOK_DEADLINE_S = 8.0
NO_ANSWER = Fault(FaultKind.FAILED, "it printed nothing")
VANISHED = (
    "no process of the run is left, and nothing says why: all were killed, "
    "or the node was restarted"
)

# The exit code is asked for last: a node's script writes it while it still lives.
LOOK_SCRIPT = """\
grep -lzxF SORACTL_RUN_ID={run_id} /proc/[0-9]*/environ 2>/dev/null | wc -l
cat {exit} 2>/dev/null
exit 0
"""


@dataclass(frozen=True)
class NodeState:
    """State of one node of an attempt."""

    node: str
    exit_code: int | None = None
    processes: int | None = None  # of the run and alive; None = not asked
    fault: Fault | None = None  # why the node could not be asked

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        error = str(self.fault) if self.fault else None
        return {
            "node": self.node,
            "exit_code": self.exit_code,
            "processes": self.processes,
            "error": error,
        }

    @property
    def ended(self) -> bool:
        """Its script wrote how it ended."""
        return self.exit_code is not None

    @property
    def vanished(self) -> bool:
        """No process is left, and nobody wrote why."""
        return not self.ended and self.processes == 0


def read_states(attempt: AttemptDir, nodes: Sequence[Node]) -> list[NodeState]:
    """States by the attempt's folder alone."""
    return [NodeState(node.name, exit_code=_read_exit(attempt, node)) for node in nodes]


def look(attempt: AttemptDir, record: AttemptRecord, remote: Remote) -> list[NodeState]:
    """States by the nodes' own answers."""

    def request(node: Node) -> Request:
        script = LOOK_SCRIPT.format(
            run_id=shlex.quote(record.run_id),
            exit=shlex.quote(str(attempt.node_exit(node.name))),
        )
        return Request(("bash", "-s"), script)

    results = run_everywhere(record.nodes, request, remote, deadline_s=LOOK_DEADLINE_S)
    return [_state(result) for result in results]


def _read_exit(attempt: AttemptDir, node: Node) -> int | None:
    try:
        return int(attempt.node_exit(node.name).read_text())
    except FileNotFoundError:
        return None


def _state(result: NodeResult) -> NodeState:
    name = result.node.name
    numbers = result.stdout.split()
    if not result.ok or not numbers:
        return NodeState(
            name, fault=result.problem or Fault(FaultKind.FAILED, "it printed nothing")
        )
    exit_code = int(numbers[1]) if len(numbers) > 1 else None
    return NodeState(name, exit_code, processes=int(numbers[0]))
