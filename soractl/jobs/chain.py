"""The way back into the queue: the job itself, or the next of a chain where that is forbidden.

A chain is a few jobs of one name, each of which begins when all before it have ended
(`--dependency=singleton`). Each one that goes on adds another at the end.
"""

from contextlib import suppress
from dataclasses import dataclass, field, replace

from soractl.errors import SoractlError
from soractl.jobs.attempts import copy_for
from soractl.queue import record
from soractl.queue.interface import Allocation, Queue
from soractl.queue.record import JobRecord, read_record
from soractl.terminal import output
from trainer.run_dir import AttemptDir, RunDir

LENGTH = 4  # the jobs of a chain


@dataclass
class Way:
    """The way of a run's job back into the queue, and out of it."""

    run: RunDir
    given: Allocation
    queue: Queue
    asked_back: bool = field(default=False, init=False)

    def back(self, attempt: AttemptDir) -> None:
        """Go on in the queue; SoractlError where neither job nor chain can."""
        self.asked_back = True
        job = read_record(attempt)
        record.note_end(attempt, "requeued")
        if job is None or not job.chain:
            self.queue.requeue(self.given.job_id)  # TERM comes at once: nothing after it is sure
            return
        following, *rest = job.chain
        with suppress(SoractlError):  # some clusters take no jobs from inside jobs
            rest.append(self.queue.submit(_script(self.run), behind_its_name=True))
        behind = JobRecord(job_id=following, kind=job.kind, chain=tuple(rest))
        record.write_record(copy_for(self.run, attempt), behind)

    def close(self, attempt: AttemptDir) -> None:
        """The run does not come back: what waits behind this job leaves the queue."""
        job = read_record(attempt)
        if job and job.chain:
            try:
                self.queue.cancel_waiting(self.run.path)
            except SoractlError as error:
                output.error(error)
        record.note_end(attempt, "ended")

    def stay_out(self) -> None:
        """Have the queue let go of a job that failed, where it would hold it for a new start.

        Not after it was asked to go back: it may have gone, although no answer came.
        """
        if self.asked_back:
            return
        with suppress(SoractlError):  # it then is held, and `squeue` shows why
            if self.queue.holds_failed(self.given.job_id):
                self.queue.cancel(self.given.job_id)


def forge(run: RunDir, attempt: AttemptDir, queue: Queue, length: int | None) -> None:
    """Jobs behind the one just submitted: as many as asked for, or where it may not be requeued."""
    job = read_record(attempt)
    assert job is not None
    if length is None and queue.may_requeue(job.job_id):
        return
    text = _script(run)
    behind = (LENGTH if length is None else length) - 1
    chain = [queue.submit(text, behind_its_name=True) for _ in range(behind)]
    record.write_record(attempt, replace(job, chain=tuple(chain)))


def _script(run: RunDir) -> str:
    newest = [one.job_script for one in run.attempts() if one.job_script.exists()][-1]
    return newest.read_text()
