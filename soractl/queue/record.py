"""Record of an attempt's job: `slurm.json` in the attempt's folder."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from soractl.cluster.settings import Kind
from soractl.queue.interface import DEFAULT
from trainer.atomic_files import RunDirError, read_json, write_json
from trainer.run_dir import AttemptDir, RunDir

Then = Literal["queued", "requeued", "restarted", "ended"]


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """The job of an attempt; `restarts` counts how often the queue had started it again."""

    job_id: int
    kind: Kind = DEFAULT  # of the queue
    restarts: int = 0
    then: Then = "queued"  # what followed the attempt, noted by the job itself
    start: Mapping[str, Any] | None = None  # the start point that was chosen when it was submitted
    chain: Sequence[int] = ()  # jobs that wait behind it, where a job may not be requeued


def write_record(attempt: AttemptDir, record: JobRecord) -> None:
    """Write an attempt's record whole."""
    write_json(attempt.job, asdict(record))


def note_end(attempt: AttemptDir, then: Then) -> None:
    """Add to an attempt's record what follows it."""
    if record := read_record(attempt):
        write_record(attempt, replace(record, then=then))


def read_record(attempt: AttemptDir) -> JobRecord | None:
    """The record of an attempt; None for one that no queue started, or a damaged one."""
    with suppress(OSError, RunDirError, TypeError):
        values = read_json(attempt.job)
        job = JobRecord(**{**values, "chain": tuple(values.get("chain", ()))})
        return job if job.kind in get_args(Kind) else None
    return None


def newest_job(run: RunDir) -> tuple[AttemptDir, JobRecord] | None:
    """The newest attempt of a run with its job; None where no queue started that attempt."""
    for attempt in reversed(run.attempts()):
        if record := read_record(attempt):
            return attempt, record
        if attempt.plan.exists():
            return None
    return None


def open_job(run: RunDir) -> tuple[AttemptDir, JobRecord] | None:
    """The same, unless the job has noted its end."""
    found = newest_job(run)
    return found if found and found[1].then != "ended" else None
