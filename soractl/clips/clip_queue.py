"""Queue of clips that many nodes read; clips that a lost node did not answer return to it."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from soractl.clips.journal import Journal
from soractl.cluster.node_python import python_on
from soractl.cluster.settings import Cluster
from soractl.errors import Fault, FaultKind
from soractl.remote.fan_out import everywhere
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.terminal.meter import CLIPS, Meter, Show

FEWEST_CLIPS = 16  # of a chunk
TRIES = 3  # in a row without any answer, and a node is given up
LONGEST_S = 30 * 86_400.0
NO_ANSWER = Fault(FaultKind.FAILED, "it printed nothing about its clips")

Task = Mapping[str, Any]  # path, num_frames


@dataclass(frozen=True)
class QueueTiming:
    """Sizes of chunks, and how long a command waits for nodes."""

    first_chunk_s: float = 1.0  # short, so that progress is seen soon; each next one is doubled
    chunk_s: float = 10.0  # at most so much work is repeated after a kill
    most_clips: int = 4096  # of a chunk: some hundred kilobytes of paths
    start_s: float = 60.0  # until a node has loaded its libraries from a busy file server
    pause_s: float = 2.0  # after a request that failed
    drain_s: float = 3.0  # after Ctrl-C, for answers that are on their way


TIMING = QueueTiming()


@dataclass(frozen=True)
class ClipReading:
    """Options of the program that reads clips on a node.

    >>> ClipReading("check", workers=8, stuck_after_s=300)
    ClipReading(what='check', workers=8, stuck_after_s=300, cluster=Cluster(...))
    """

    what: Literal["info", "check"]
    workers: int  # processes a node; 0: as many as it has cores
    stuck_after_s: float  # a clip that takes longer is given up
    cluster: Cluster = field(default_factory=Cluster)

    def request(self, node: Node, tasks: Iterable[Task], seconds: float) -> Request:
        """Request that sends clips over stdin; the node begins none of them after `seconds`."""
        options = {
            "--workers": self.workers,
            "--seconds": seconds,
            "--stuck-after": self.stuck_after_s,
        }
        words = [str(word) for option in options.items() for word in option]
        program = ("-m", "soractl.clips.clip_reader", self.what)
        argv = python_on(node, self.cluster, *program, *words)
        return Request(argv, "".join(f"{json.dumps(task)}\n" for task in tasks))


@dataclass(frozen=True)
class Readers:
    """The nodes that read clips, and how they are asked."""

    nodes: Sequence[Node]
    remote: Remote
    reading: ClipReading
    close: Callable[[], None] = lambda: None  # at Ctrl-C: ends all requests at once
    timing: QueueTiming = TIMING

    @property
    def deadline_s(self) -> float:
        """Seconds after which a node without an answer counts as lost."""
        timing = self.timing
        return timing.start_s + timing.chunk_s + self.reading.stuck_after_s

    def ask(self, node: Node, tasks: Sequence[Task], seconds: float) -> NodeResult:
        """The result of one chunk on one node."""
        return self.remote(node, self.reading.request(node, tasks, seconds), self.deadline_s)


def read_clips(
    tasks: Sequence[Task], readers: Readers, journal: Journal, show: Show
) -> dict[str, Fault]:
    """Read every clip that is not in the journal, and write its answer there.

    Returns the nodes that were given up, with the reason. Clips are left if all nodes were, or
    after Ctrl-C. SoractlError if the journal cannot be written.
    """
    left = [task for task in tasks if task["path"] not in journal.entries]
    failed = sum(
        not journal.entries[task["path"]]["ok"] for task in tasks if task["path"] in journal.entries
    )
    counter = Meter(CLIPS, len(tasks), show, done=len(tasks) - len(left), failed=failed)
    counter.advance(0, 0)
    queue = _Queue(left, readers, journal, counter)

    def serve(node: Node) -> tuple[str, Fault | None]:
        return node.name, queue.serve(node)

    try:
        ends = everywhere(
            readers.nodes, serve, lambda node, fault: (node.name, fault), deadline_s=LONGEST_S
        )
        queue.stop()
        readers.close()
        queue.wait(readers.timing.drain_s)
    finally:
        queue.close()
    return {name: fault for name, fault in ends if fault}


class _Queue:
    def __init__(
        self, tasks: Iterable[Task], readers: Readers, journal: Journal, counter: Meter
    ) -> None:
        self._waiting = deque(tasks)
        self._readers = readers
        self._journal, self._counter = journal, counter
        self._at_work = 0  # chunks
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._closed = False

    def serve(self, node: Node) -> Fault | None:
        """Let a node read until nothing is left; its fault if it was given up."""
        timing = self._readers.timing
        faults, seconds = 0, timing.first_chunk_s
        while chunk := self._take():
            answers: list[dict[str, Any]] = []
            try:
                result = self._readers.ask(node, chunk, seconds)
                answers = _answers(result, chunk)
            finally:
                self._give(chunk, answers)
            seconds = min(2 * seconds, timing.chunk_s)
            faults = 0 if answers else faults + 1
            if faults == TRIES:
                return result.problem or NO_ANSWER
            if not result.ok:
                self._stopped.wait(timing.pause_s)
        return None

    def stop(self) -> None:
        """Begin no more chunks."""
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until all chunks at work are recorded, for at most this time."""
        with self._changed:
            self._changed.wait_for(lambda: not self._at_work, seconds)

    def close(self) -> None:
        """Begin and record no more chunks."""
        self.stop()
        with self._changed:
            self._closed = True

    def _take(self) -> list[Task]:
        """The clips of the next chunk; empty when all are read."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped.is_set() or self._waiting or not self._at_work
            )
            if self._stopped.is_set():
                return []
            size = self._chunk_size(len(self._waiting))
            self._at_work += bool(size)
            return [self._waiting.popleft() for _ in range(size)]

    def _chunk_size(self, waiting: int) -> int:
        nodes, most = len(self._readers.nodes), self._readers.timing.most_clips
        share = waiting // (2 * nodes) if nodes > 1 else most
        return min(most, max(FEWEST_CLIPS, share), waiting)

    def _give(self, chunk: Sequence[Task], answers: Sequence[dict[str, Any]]) -> None:
        """Record the answers of a chunk; clips without one return to the front of the queue."""
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
    """The answers of a node about these clips, each clip once; a cut last line is ignored."""
    asked = {task["path"] for task in chunk}
    found: dict[str, dict[str, Any]] = {}
    for line in result.stdout.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        try:
            answer = json.loads(line)
            path = answer["path"]
        except (ValueError, TypeError, KeyError):
            continue  # output of a login script
        if path in asked:
            found.setdefault(path, {**answer, "node": result.node.name})
    return list(found.values())
