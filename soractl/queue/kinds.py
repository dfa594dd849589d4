"""The queues that there are. A new one: a module with a class beside `slurm`, and a line here."""

from collections.abc import Mapping

from soractl.cluster.settings import Kind
from soractl.queue.interface import DEFAULT, Allocation, Queue
from soractl.queue.record import newest_job, read_record
from soractl.queue.slurm import Slurm
from soractl.remote.requests import Remote
from trainer.run_dir import AttemptDir, RunDir

QUEUES: Mapping[Kind, type[Queue]] = {  # by `kind` in the cluster's file
    "slurm": Slurm,
}


def queue_of_run(run: RunDir, remote: Remote, environ: Mapping[str, str]) -> Queue:
    """The queue that a run's newest job went to; it shares what it asks with other commands."""
    found = newest_job(run)
    return QUEUES[found[1].kind if found else DEFAULT].shared(remote, environ)


def queue_of(attempt: AttemptDir) -> type[Queue]:
    """The queue that an attempt's job went to."""
    job = read_record(attempt)
    return QUEUES[job.kind if job else DEFAULT]


def allocation(environ: Mapping[str, str]) -> Allocation | None:
    """The allocation around this process, by any queue; SoractlError if no run can use it."""
    return next(filter(None, (one.allocation(environ) for one in QUEUES.values())), None)
