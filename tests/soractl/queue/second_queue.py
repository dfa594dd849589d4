"""A queue besides Slurm, in memory: what the other rooms need of one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from soractl.queue.interface import Allocation, Job, Phase, QueueEntry, QueueNode
from soractl.remote.nodes import Node
from soractl.remote.requests import Remote

PHASES: Mapping[str, Phase] = {
    "Q": "waiting",
    "R": "running",
    "E": "completing",
    "S": "suspended",
    "F": "ended",
}


@dataclass(frozen=True)
class Entry(QueueEntry):
    """A job by a letter for its state."""

    @property
    def phase(self) -> Phase:
        return PHASES[self.state]

    @property
    def is_cancelled(self) -> bool:
        return self.state == "F"

    @property
    def at_limit(self) -> bool:
        return False

    @property
    def lacks_nodes(self) -> bool:
        return False

    @property
    def reason_in_words(self) -> str | None:
        return self.reason


class SecondQueue:
    """Jobs of all its objects, by their ids, and what was asked of it."""

    title: ClassVar[str] = "Second"
    jobs: ClassVar[dict[int, Entry]] = {}
    asked: ClassVar[list[str]] = []

    def __init__(self, remote: Remote) -> None:
        self.remote = remote

    @classmethod
    def shared(cls, remote: Remote, environ: Mapping[str, str]) -> "SecondQueue":
        return cls(remote)

    @staticmethod
    def allocation(environ: Mapping[str, str]) -> Allocation | None:
        names = environ.get("SECOND_NODES", "").split()
        return Allocation(5, tuple(map(Node, names)), 0, "slurm") if names else None

    def script(self, job: Job) -> str:
        return f"{job.nodes} nodes\n"

    def check(self, script: str) -> str:
        return "soon"

    def submit(self, script: str, *, behind_its_name: bool = False) -> int:
        job_id = len(self.jobs) + 1
        self.jobs[job_id] = Entry(job_id, "Q", reason="no nodes")
        return job_id

    def entry(self, job_id: int) -> Entry | None:
        return self.jobs.get(job_id)

    entry_now = entry

    def accounted(self, job_id: int) -> Entry | None:
        return None

    def signal(self, job_id: int, signal: str) -> None:
        self.asked.append(f"{signal} to {job_id}")

    def cancel(self, job_id: int) -> None:
        self.asked.append(f"cancel {job_id}")
        self.jobs[job_id] = Entry(job_id, "F")

    def cancel_waiting(self, run: Path) -> None:
        self.asked.append(f"cancel waiting of {run.name}")

    def requeue(self, job_id: int) -> None:
        self.jobs[job_id] = Entry(job_id, "Q")

    def may_requeue(self, job_id: int) -> bool:
        return True

    def holds_failed(self, job_id: int) -> bool:
        return False

    def kill_wait_s(self) -> float:
        return 5.0

    def nodes(self, partition: str) -> Sequence[QueueNode]:
        return ()

    def drained_nodes(self) -> Sequence[QueueNode]:
        return ()

    @staticmethod
    def on_all_nodes(nodes: Sequence[str], attempt: Path, run_id: str, home: str) -> Sequence[str]:
        return ("true",)

    @staticmethod
    def on_one_node(node: str, program: Sequence[str]) -> Sequence[str]:
        return ("true",)
