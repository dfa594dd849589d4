"""Interface of a queue: all that other rooms know of Slurm. `kinds` says which queues there are."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

from soractl.cluster.settings import JobSettings, Kind
from soractl.remote.nodes import Node
from soractl.remote.requests import Remote

DEFAULT: Kind = "slurm"  # where no record says which
WARNING = "USR1"  # from the queue to a job's program, before a limit or a preemption
STOP = "INT"  # ours to that program: save, leave and do not come back

# suspended: it has nodes, but its program cannot act now
Phase = Literal["waiting", "running", "completing", "suspended", "ended"]


@dataclass(frozen=True)
class Allocation:
    """Nodes that a queue gave to a job.

    >>> Allocation(12, (Node("n1"), Node("n2")), 0).port
    15012
    """

    job_id: int
    nodes: tuple[Node, ...]
    restarts: int  # how often the job was requeued
    kind: Kind = DEFAULT  # of the queue

    @property
    def port(self) -> int:
        """A port for rank 0 that two jobs on one node do not share."""
        return 15_000 + self.job_id % 15_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job to submit: a run, its nodes and the program that its first node runs."""

    run: Path
    nodes: int
    log: Path
    workdir: Path
    program: tuple[str, ...]
    environment: Mapping[str, str]
    settings: JobSettings
    lead_s: int  # seconds from the warning to the limit
    expedite: bool = False  # requeued at once, on the nodes that are left, where the queue can
    exclude: tuple[str, ...] = ()  # nodes to blame
    outlives_nodes: bool = False  # the job goes on when it loses some


@dataclass(frozen=True)
class QueueEntry(ABC):
    """A job as the queue shows it; states and reasons are the queue's own words."""

    job_id: int
    state: str
    reason: str | None = None
    nodes: str | None = None  # a node list, as HOSTS takes it
    start: str | None = None  # when it began or may begin, by the queue's clock

    @property
    @abstractmethod
    def phase(self) -> Phase:
        """Its phase."""

    @property
    @abstractmethod
    def is_cancelled(self) -> bool:
        """Somebody ended it, or took it out of the queue."""

    @property
    @abstractmethod
    def at_limit(self) -> bool:
        """The queue ends it for its time limit."""

    @property
    @abstractmethod
    def lacks_nodes(self) -> bool:
        """It waits, and nodes that take no jobs may be why."""

    @property
    @abstractmethod
    def reason_in_words(self) -> str | None:
        """Reason of its wait; one that is not known is shown as it is."""

    @property
    def is_waiting(self) -> bool:
        """It has no nodes yet, or none any more."""
        return self.phase == "waiting"

    @property
    def is_active(self) -> bool:
        """It has nodes."""
        return self.phase in ("running", "completing", "suspended")

    @property
    def in_words(self) -> str:
        """A line's worth: state, reason, and when it may start."""
        if not self.is_waiting:
            return f"{self.state.lower()} as job {self.job_id}"
        parts = [f"waiting as job {self.job_id}"]
        if reason := self.reason_in_words:
            parts.append(f": {reason}")
        if self.start:
            parts.append(f"; may start at {self.start}")
        return "".join(parts)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "reason_in_words": self.reason_in_words}


@dataclass(frozen=True)
class QueueNode(ABC):
    """A node as the queue knows it."""

    name: str
    state: str  # the queue's own word
    reason: str | None = None

    @property
    @abstractmethod
    def is_drained(self) -> bool:
        """No job starts on it."""

    @property
    @abstractmethod
    def is_down(self) -> bool:
        """It does not answer the queue."""

    @property
    def state_in_words(self) -> str:
        """Its state as people read it."""
        return self.state


class Queue(Protocol):
    """A queue, asked on this machine; SoractlError, exit code 5, with its words if it refuses."""

    title: ClassVar[str]  # its name in sentences

    def __init__(self, remote: Remote) -> None: ...

    @property
    def remote(self) -> Remote:
        """By which its programs are started here, and nodes are reached."""
        ...

    @classmethod
    def shared(cls, remote: Remote, environ: Mapping[str, str]) -> Self:
        """One that shares what it asks with the user's other commands."""
        ...

    @staticmethod
    def allocation(environ: Mapping[str, str]) -> Allocation | None:
        """The nodes of the job that this process runs in; SoractlError if no run can use them."""
        ...

    def script(self, job: Job) -> str:
        """The text of a job."""
        ...

    def check(self, script: str) -> str:
        """The queue's forecast for a script, in words."""
        ...

    def submit(self, script: str, *, behind_its_name: bool = False) -> int:
        """The id of a new job; `behind_its_name`: it begins when earlier ones of its run ended."""
        ...

    def entry(self, job_id: int) -> QueueEntry | None:
        """A job in the queue, asked for as often as the queue bears; None: it has left."""
        ...

    def entry_now(self, job_id: int) -> QueueEntry | None:
        """The same, asked for now."""
        ...

    def accounted(self, job_id: int) -> QueueEntry | None:
        """A job that has left the queue, where accounts are kept."""
        ...

    def signal(self, job_id: int, signal: str) -> None:
        """Send a signal to a job's program alone, not to its ranks."""
        ...

    def cancel(self, job_id: int) -> None:
        """End a job, waiting or not."""
        ...

    def cancel_waiting(self, run: Path) -> None:
        """Take all jobs of a run that have not begun out of the queue."""
        ...

    def requeue(self, job_id: int) -> None:
        """Put a job back into the queue; from inside, this ends it."""
        ...

    def may_requeue(self, job_id: int) -> bool:
        """A job may go back into the queue."""
        ...

    def holds_failed(self, job_id: int) -> bool:
        """A job that ends with another code than 0 is kept in the queue and has to be cancelled."""
        ...

    def kill_wait_s(self) -> float:
        """Seconds from TERM to KILL."""
        ...

    def nodes(self, partition: str) -> Sequence[QueueNode]:
        """The nodes of a partition; none where there is no such partition."""
        ...

    def drained_nodes(self) -> Sequence[QueueNode]:
        """All nodes that take no jobs."""
        ...

    @staticmethod
    def on_all_nodes(nodes: Sequence[str], attempt: Path, run_id: str, home: str) -> Sequence[str]:
        """The command that runs an attempt's script of each node, from inside the job."""
        ...

    @staticmethod
    def on_one_node(node: str, program: Sequence[str]) -> Sequence[str]:
        """The command that runs a program of ours on one node of the job, without GPUs."""
        ...
