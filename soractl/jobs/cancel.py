"""Ending the job of a run in its queue: rank 0 saves, the job is cancelled and looked for.

What is left on the nodes afterwards is the work of `runs.kill`: without cgroups, processes that
left their session outlive their job.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from soractl.errors import ExitCode
from soractl.processes.selection import Selection
from soractl.queue.interface import STOP, Queue, QueueEntry
from soractl.queue.record import JobRecord, note_end, open_job
from soractl.runs.events import EventKind, EventLog
from soractl.runs.owner import refuse_another_users
from soractl.runs.record import read_record
from soractl.supervise.stop import Stopped, left_on
from trainer.run_dir import AttemptDir, RunDir

NOTHING_STOPPED = ", and so does its job; nothing was stopped"
POLL_S = 2.0  # one job, and for a short time
COMPLETING_LOOKS = 3
LEAVE_S = 60.0  # what a queue needs to end a job: KillWait, and its epilog
ORPHANS_S = 5.0  # what processes may take to end that their job has left


@dataclass(frozen=True)
class Cancelled:
    """A job that was in the queue, and whether it still is."""

    run: RunDir
    job_id: int
    before: QueueEntry
    left: QueueEntry | None = None  # still there; None: gone from the queue
    is_dry: bool = False

    @property
    def exit_code(self) -> ExitCode:
        """1 while the job is still in the queue."""
        return ExitCode.FAILED if self.left else ExitCode.OK

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        left = self.left.as_json() if self.left else None
        return {"job_id": self.job_id, "before": self.before.as_json(), "left": left}

    def lines(self) -> list[str]:
        """Jobs that were found in the queue, and what became of them."""
        if self.is_dry:
            return [f"would cancel job {self.job_id} of {self.run.name}: {self.before.in_words}"]
        if self.left:
            return [f"job {self.job_id} of {self.run.name} does not leave: {self.left.in_words}"]
        return [f"job {self.job_id} of {self.run.name} has left the queue"]


def cancel_job(
    run: RunDir,
    queue: Queue,
    *,
    grace_s: float | None,
    on_found: Callable[[QueueEntry], None] | None = None,
) -> Cancelled | None:
    """End the job of a run; None if it has none in the queue. Without `grace_s` only find it.

    What is left on its nodes is ended next, by `runs.kill`; then `confirm` says if it has left.

    A running one has `grace_s` seconds for a save, which rank 0 is asked for by the batch shell:
    `scancel` alone would end every rank, and the workers that read clips, at once.
    """
    found = _job_of(run, queue)
    if found is None or not (found[2].is_waiting or found[2].is_active):
        return None
    attempt, job, entry = found
    refuse_another_users(run, NOTHING_STOPPED)
    if grace_s is None:
        return Cancelled(run, job.job_id, entry, is_dry=True)
    if on_found:
        on_found(entry)
    log = EventLog(run, "kill")
    log.write(EventKind.STOP_REQUESTED, attempt=attempt.number)
    if job.chain:
        queue.cancel_waiting(run.path)
    if entry.phase == "running":
        queue.signal(job.job_id, STOP)
        _wait(job.job_id, queue, grace_s)
    if _in_queue(job.job_id, queue):
        queue.cancel(job.job_id)
        _wait(job.job_id, queue, LEAVE_S)
    return Cancelled(run, job.job_id, entry, _in_queue(job.job_id, queue))


def confirm(cancelled: Cancelled, queue: Queue) -> Cancelled:
    """The same, once its nodes are empty: processes that are left there keep a job completing."""
    if cancelled.is_dry:
        return cancelled
    _wait(cancelled.job_id, queue, LEAVE_S, also_completing=True)
    left = _in_queue(cancelled.job_id, queue)
    found = open_job(cancelled.run)
    if left is None and found:
        note_end(found[0], "ended")
        log = EventLog(cancelled.run, "kill")
        log.write(EventKind.KILLED, attempt=found[0].number, text=f"job {cancelled.job_id}")
    return replace(cancelled, left=left)


def stop_job(run: RunDir, queue: Queue, *, timeout_s: float) -> Stopped | None:
    """Have the job of a run save and leave; None if it has none that runs. Nothing is cancelled."""
    found = _job_of(run, queue)
    if found is None or found[2].phase != "running":
        return None
    attempt, job, _ = found
    refuse_another_users(run, NOTHING_STOPPED)
    EventLog(run, "stop").write(EventKind.STOP_REQUESTED, attempt=attempt.number)
    queue.signal(job.job_id, STOP)
    _wait(job.job_id, queue, timeout_s)
    planned = read_record(attempt) if attempt.plan.exists() else None
    asked = sum(planned.ranks) if planned else 0
    left: tuple[tuple[str, int], ...] = ()
    silent: tuple[str, ...] = ()
    entry = _in_queue(job.job_id, queue)
    if entry and entry.phase != "completing":
        left = ((f"job {job.job_id}", asked),)
    elif planned:  # without cgroups, processes outlive their job, or keep it completing
        which = Selection(run_id=planned.run_id)
        left, silent = left_on(planned.nodes, queue.remote, which, ORPHANS_S)
    complete = run.checkpoints()
    newest = complete[-1].name if complete else None
    return Stopped(run, asked, left, newest, silent, by_queue=True)


def _job_of(run: RunDir, queue: Queue) -> tuple[AttemptDir, JobRecord, QueueEntry] | None:
    """The open job of a run as its queue shows it now."""
    found = open_job(run)
    entry = queue.entry_now(found[1].job_id) if found else None
    return (*found, entry) if found and entry else None


def _in_queue(job_id: int, queue: Queue) -> QueueEntry | None:
    entry = queue.entry_now(job_id)
    return entry if entry and (entry.is_waiting or entry.is_active) else None


def _wait(job_id: int, queue: Queue, seconds: float, *, also_completing: bool = False) -> None:
    """Until the job has left, or only waits for what is left of it on its nodes."""
    end_s = time.monotonic() + seconds
    completing = 0
    while (entry := _in_queue(job_id, queue)) and time.monotonic() < end_s:
        completing += entry.phase == "completing"
        if completing > COMPLETING_LOOKS and not also_completing:
            return
        time.sleep(POLL_S)
