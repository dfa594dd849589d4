"""States of an attempt's nodes: exit codes on disk, living processes on the nodes."""

import shlex
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from soractl.errors import Fault, FaultKind
from soractl.remote.connections import Connections, Dialogue
from soractl.remote.deadline import Deadline, DeadlinePassed
from soractl.remote.fan_out import everywhere, run_everywhere
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.remote.scripts import script, sections
from soractl.remote.ssh_command import SshFailure
from soractl.runs.record import AttemptRecord
from trainer.run_dir import AttemptDir

LOOK_DEADLINE_S = 8.0
LEAST_S = 0.5  # for an answer that should lie here already
SEPARATOR = "\x1f"  # in place of newlines, in an answer of one line
# In one write, so that the head reads one packet.
ANSWERING = "while IFS= read -r _; do printf '%s\\n' \"$(look | tr '\\n' '\\037')\"; done"
NO_ANSWER = Fault(FaultKind.FAILED, "it printed nothing")
UNREAD = Fault(FaultKind.FAILED, "how it ended cannot be read there")


@dataclass(frozen=True)
class NodeState:
    """State of one node of an attempt."""

    node: str
    exit_code: int | None = None
    processes: int | None = None  # of the run and alive; None = not asked, or not to be seen
    ranks: int | None = None  # of these processes
    agents: int | None = None  # of these processes: torchrun, which starts the ranks
    fault: Fault | None = None  # why the node could not be asked
    clock_unix_s: float | None = None  # the node's own, when it answered
    age_s: float | None = None  # of its oldest process
    owner: str | None = None  # another user, whose processes cannot be seen

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        error = str(self.fault) if self.fault else None
        return {
            "node": self.node,
            "exit_code": self.exit_code,
            "processes": self.processes,
            "ranks": self.ranks,
            "error": error,
        }

    @property
    def ended(self) -> bool:
        """Its script wrote how it ended."""
        return self.exit_code is not None

    @property
    def outlived_by(self) -> int:
        """Number of ranks that go on though their launcher has failed, or torchrun is gone."""
        return (self.ranks or 0) if self.exit_code or self.agents == 0 else 0

    @property
    def may_run(self) -> bool:
        """Something of the run lives there, or may live there."""
        if self.ended:
            return self.outlived_by > 0
        return bool(self.processes or self.fault or self.owner)

    @property
    def vanished(self) -> bool:
        """No process is left, and nobody wrote why."""
        return not self.ended and self.processes == 0


def read_states(attempt: AttemptDir, nodes: Sequence[Node]) -> list[NodeState]:
    """States by the attempt's folder alone."""
    return [NodeState(node.name, exit_code=_read_exit(attempt, node)) for node in nodes]


def ask_states(
    attempt: AttemptDir,
    record: AttemptRecord,
    remote: Remote,
    deadline_s: float = LOOK_DEADLINE_S,
) -> list[NodeState]:
    """States by the nodes' own answers."""

    def request(node: Node) -> Request:
        return Request(("sh", "-s"), _look(attempt, record, node))

    results = run_everywhere(record.nodes, request, remote, deadline_s=deadline_s)
    return [_state(result, _read_exit(attempt, result.node)) for result in results]


class KeptLooks:
    """The same again and again, by programs that stay on the nodes: no look starts one here.

    All are asked before any answer is read, in one thread. A program that is gone, or gives no
    answer, is started anew at the next look.
    """

    def __init__(self, attempt: AttemptDir, record: AttemptRecord, remote: Connections) -> None:
        self._attempt, self._record, self._remote = attempt, record, remote
        self._dialogues: dict[str, Dialogue] = {}
        self._lock = threading.Lock()

    def __call__(self) -> list[NodeState]:
        """States of all nodes now."""
        with self._lock:
            deadline = Deadline(LOOK_DEADLINE_S)
            held = dict(self._dialogues)  # `close` may empty it meanwhile, in another thread
            asked = {name: self._send(name, dialogue) for name, dialogue in held.items()}
            new = [node for node in self._record.nodes if node.name not in asked]
            answers = dict(zip([node.name for node in new], self._start_on(new), strict=True))
            for name, fault in asked.items():
                answers[name] = fault or self._read(name, held[name], deadline)
        return [self._state(node, answers[node.name]) for node in self._record.nodes]

    def close(self) -> None:
        """End the programs."""
        for name in list(self._dialogues):
            self._drop(name)

    def _start_on(self, nodes: Sequence[Node]) -> list[str | Fault]:
        """The first answers of nodes without a program, each in a thread of its own."""
        if not nodes:
            return []
        return everywhere(nodes, self._start, lambda node, fault: fault, deadline_s=LOOK_DEADLINE_S)

    def _start(self, node: Node) -> str | Fault:
        deadline = Deadline(LOOK_DEADLINE_S)
        program = f"look() (\n{_look(self._attempt, self._record, node)})\n{ANSWERING}"
        try:
            with ExitStack() as undo:
                dialogue = self._remote.dialogue(node, ("sh", "-c", program), deadline.left())
                undo.callback(dialogue.close)
                line = dialogue.ask(b"", deadline.left())
                undo.pop_all()
        except (SshFailure, DeadlinePassed) as failure:
            return Fault(FaultKind.UNREACHABLE, str(failure))
        self._dialogues[node.name] = dialogue
        return line.decode(errors="replace")

    def _send(self, name: str, dialogue: Dialogue) -> Fault | None:
        try:
            dialogue.send(b"", LEAST_S)
        except SshFailure as failure:
            return self._gone(name, failure)
        return None

    def _read(self, name: str, dialogue: Dialogue, deadline: Deadline) -> str | Fault:
        """An answer; that of a node which others have kept waiting lies here already."""
        try:
            within_s = max(LEAST_S, LOOK_DEADLINE_S - deadline.elapsed())
            return dialogue.read_line(within_s).decode(errors="replace")
        except SshFailure as failure:
            return self._gone(name, failure)

    def _gone(self, name: str, failure: SshFailure) -> Fault:
        self._drop(name)
        return Fault(FaultKind.UNREACHABLE, str(failure))

    def _drop(self, name: str) -> None:
        """End a node's program, unless somebody else does so at this moment."""
        if dialogue := self._dialogues.pop(name, None):
            dialogue.close()

    def _state(self, node: Node, answer: str | Fault) -> NodeState:
        exit_code = _read_exit(self._attempt, node)
        if isinstance(answer, Fault):
            return NodeState(node.name, exit_code, fault=answer)
        text = answer.replace(SEPARATOR, "\n")
        return _state(NodeResult(node, stdout=text, exit_code=0), exit_code)


def _look(attempt: AttemptDir, record: AttemptRecord, node: Node) -> str:
    exit_file = attempt.node_exit(node.name)
    names = f"run_id={shlex.quote(record.run_id)}\nexit_file={shlex.quote(str(exit_file))}\n"
    return names + script("soractl.runs", "look.sh")


def _read_exit(attempt: AttemptDir, node: Node) -> int | None:
    try:
        return int(attempt.node_exit(node.name).read_text())
    except (OSError, ValueError):  # not there, not to be read just now, or empty after a power cut
        return None


def _state(result: NodeResult, exit_code: int | None) -> NodeState:
    """The state by a node's answer; `exit_code` as seen from here, which may be late."""
    name = result.node.name
    found = sections(result.stdout)
    if not result.ok or "processes" not in found:
        return NodeState(name, exit_code, fault=result.problem or NO_ANSWER)
    if "unread" in found and exit_code is None:
        return NodeState(name, fault=UNREAD)
    numbers = {section: number for section, (_, number) in found.items()}
    owner = found["hidden"][0].strip().splitlines()[-1] if "hidden" in found else None
    return NodeState(
        name,
        numbers.get("exit", exit_code),
        processes=None if owner else numbers["processes"],
        ranks=None if owner else numbers.get("ranks"),
        agents=None if owner else numbers.get("agents"),
        clock_unix_s=numbers.get("clock"),
        age_s=numbers.get("age"),
        owner=owner,
    )
