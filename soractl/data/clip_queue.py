"""A queue of clips that many nodes read: what a lost node has not answered goes back to it."""

import json
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from soractl.cluster.settings import Cluster
from soractl.data.journal import Journal
from soractl.errors import Fault, FaultKind
from soractl.remote.fan_out import everywhere
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.terminal.meter import CLIPS, Meter, Show

FIRST_CHUNK_S = 1.0  # of a node, so that progress is seen soon; each next one is twice as long
CHUNK_S = 10.0  # at most so much work is done anew after a kill
MOST_CLIPS = 4096  # of a chunk: some hundred kilobytes of paths
FEWEST_CLIPS = 16
START_S = 60.0  # a node may take so long to load its libraries from a busy file server
TRIES = 3  # in a row without any answer, and a node is given up
PAUSE_S = 2.0  # between them
LAST_WORDS_S = 3.0  # at Ctrl-C, until what the nodes had said is noted
LONGEST_S = 30 * 86_400.0
IN_FOLDER = 'cd "$1" && shift && exec "$@"'
NO_ANSWER = Fault(FaultKind.FAILED, "it printed nothing about its clips")

Task = Mapping[str, Any]  # path, num_frames


@dataclass(frozen=True)
class Reading:
    """How nodes read clips."""

    what: Literal["info", "check"]
    workers: int  # processes a node; 0: as many as it has cores
    stuck_after_s: float  # a clip that takes longer is given up
    cluster: Cluster = field(default_factory=Cluster)
    hang_up: Callable[[], None] = lambda: None  # at Ctrl-C: ends all requests at once

    def request(self, node: Node, tasks: Iterable[Task], seconds: float) -> Request:
        """What a node is asked for: clips, over stdin, of which none begins after `seconds`."""
        environment = self.cluster.environment or str(Path(sys.executable).parent)
        options = {
            "--workers": self.workers,
            "--seconds": seconds,
            "--stuck-after": self.stuck_after_s,
        }
        argv = (
            *("sh", "-c", IN_FOLDER, "sh", self.cluster.workdir or str(Path.cwd())),
            *(sys.executable if node.local else f"{environment}/python", "-m"),
            *("soractl.data.clip_reader", self.what),
            *(str(part) for option in options.items() for part in option),
        )
        return Request(argv, "".join(f"{json.dumps(task)}\n" for task in tasks))

    @property
    def deadline_s(self) -> float:
        """When a node that says nothing counts as lost."""
        return START_S + CHUNK_S + self.stuck_after_s


def read_clips(
    tasks: Sequence[Task],
    nodes: Sequence[Node],
    remote: Remote,
    *,
    reading: Reading,
    journal: Journal,
    show: Show,
) -> dict[str, Fault]:
    """Every clip that the journal does not know is read, and noted in it.

    Returns the nodes that were given up, and why. When all were, or at Ctrl-C, clips are left.
    """
    left = [task for task in tasks if task["path"] not in journal.entries]
    failed = sum(
        not journal.entries[task["path"]]["ok"] for task in tasks if task["path"] in journal.entries
    )
    counter = Meter(CLIPS, len(tasks), show, done=len(tasks) - len(left), failed=failed)
    counter.advance(0, 0)
    queue = _Queue(left, len(nodes), journal, counter)

    def serve(node: Node) -> tuple[str, Fault | None]:
        return node.name, queue.serve(node, remote, reading)

    try:
        ends = everywhere(
            nodes, serve, lambda node, fault: (node.name, fault), deadline_s=LONGEST_S
        )
        queue.stop()
        reading.hang_up()
        queue.wait(LAST_WORDS_S)
    finally:
        queue.close()
    return {name: fault for name, fault in ends if fault}


class _Queue:
    def __init__(self, tasks: Iterable[Task], nodes: int, journal: Journal, counter: Meter) -> None:
        self._waiting = deque(tasks)
        self._nodes = nodes
        self._journal, self._counter = journal, counter
        self._at_work = 0  # chunks
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._closed = False

    def serve(self, node: Node, remote: Remote, reading: Reading) -> Fault | None:
        """Let a node read until nothing is left; why it was given up, if it was."""
        faults, seconds = 0, FIRST_CHUNK_S
        while chunk := self._take():
            answers: list[dict[str, Any]] = []
            try:
                result = remote(node, reading.request(node, chunk, seconds), reading.deadline_s)
                answers = _answers(result, chunk)
            finally:
                self._give(chunk, answers)
            seconds = min(2 * seconds, CHUNK_S)
            faults = 0 if answers else faults + 1
            if faults == TRIES:
                return result.problem or NO_ANSWER
            if not result.ok:
                self._stopped.wait(PAUSE_S)
        return None

    def stop(self) -> None:
        """Nothing more is begun."""
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Until all that was begun is noted, or this time is over."""
        with self._changed:
            self._changed.wait_for(lambda: not self._at_work, seconds)

    def close(self) -> None:
        """Nothing more is begun or noted."""
        self.stop()
        with self._changed:
            self._closed = True

    def _take(self) -> list[Task]:
        """Some clips; none when all are read."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped.is_set() or self._waiting or not self._at_work
            )
            if self._stopped.is_set():
                return []
            share = len(self._waiting) // (2 * self._nodes) if self._nodes > 1 else MOST_CLIPS
            size = min(MOST_CLIPS, max(FEWEST_CLIPS, share), len(self._waiting))
            self._at_work += bool(size)
            return [self._waiting.popleft() for _ in range(size)]

    def _give(self, chunk: Sequence[Task], answers: Sequence[dict[str, Any]]) -> None:
        """Note the answers; the clips without one are for whoever comes next."""
        with self._changed:
            if self._closed:
                return
            self._journal.add(answers)
            answered = {answer["path"] for answer in answers}
            self._waiting.extendleft(
                task for task in reversed(chunk) if task["path"] not in answered
            )
            self._at_work -= 1
            self._changed.notify_all()
            self._counter.advance(len(answers), sum(not answer["ok"] for answer in answers))


def _answers(result: NodeResult, chunk: Sequence[Task]) -> list[dict[str, Any]]:
    """Whole lines of what a node said about these clips, each clip once."""
    asked = {task["path"] for task in chunk}
    found: dict[str, dict[str, Any]] = {}
    for line in result.stdout.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        try:
            answer = json.loads(line)
            path = answer["path"]
        except (ValueError, TypeError, KeyError):
            continue  # what a login script says
        if path in asked:
            found.setdefault(path, {**answer, "node": result.node.name})
    return list(found.values())
