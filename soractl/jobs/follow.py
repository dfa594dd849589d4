"""Following a run in a queue, by its files and by the queue."""

import time
from dataclasses import dataclass

from soractl.errors import ExitCode
from soractl.jobs import attempts
from soractl.queue.interface import Queue, QueueEntry
from soractl.queue.kinds import queue_of
from soractl.queue.record import newest_job, note_end
from soractl.runs.events import EventKind, EventLog, TrainerEvents, read_events
from soractl.runs.post_mortem import Failure, Outcome, read_outcome
from soractl.runs.progress import Progress, ProgressReader
from soractl.runs.record import read_record
from soractl.terminal.meter import Display
from trainer.atomic_files import folder_time
from trainer.run_dir import AttemptDir, RunDir

TICK_S = 0.5
PATIENCE_S = 15.0  # from the end of a job in the queue to the last of its files


@dataclass
class _Reader:
    """Progress of one attempt."""

    attempt: AttemptDir
    progress: ProgressReader
    trainers: TrainerEvents

    @classmethod
    def of(cls, run: RunDir, attempt: AttemptDir) -> "_Reader":
        log = attempt.node_log(read_record(attempt).nodes[0].name)
        reader = ProgressReader(run, log, attempt.number)
        return cls(attempt, reader, TrainerEvents(EventLog(run, "follow"), attempt))

    def look(self) -> Progress:
        progress = self.progress.follow()
        self.trainers.look(progress.global_step)
        return progress


@dataclass(frozen=True)
class JobEnd:
    """The end of a run's job: its last attempt, how that ended, how far it came."""

    attempt: AttemptDir
    job_id: int
    outcome: Outcome
    progress: Progress | None

    def gave_up(self, run: RunDir) -> str:
        """Reason for which an unfinished job does not come back; '' if it comes."""
        known = (one for one in read_events(run) if one.kind == EventKind.GAVE_UP)
        return next((one.text for one in known if one.attempt == self.attempt.number), "")


def follow_job(run: RunDir, queue: Queue, display: Display) -> JobEnd:
    """Show a run's queue entry and progress, over requeues, until its job has ended."""
    reader: _Reader | None = None
    last: Progress | None = None
    shown = ""
    gone_at: float | None = None
    while True:
        found = newest_job(run)
        assert found is not None
        attempt, job = found
        if attempt.plan.exists() and (reader is None or reader.attempt != attempt):
            reader = _Reader.of(run, attempt)
        if reader is not None:
            last = reader.look()
            if reader.attempt == attempt:
                display.show(last)
        if job.then == "ended" and (outcome := read_outcome(attempt)):
            return JobEnd(attempt, job.job_id, outcome, last)
        entry = queue.entry(job.job_id)
        line = entry.in_words if entry else ""
        if entry and entry.is_waiting and line != shown:
            display.say(f"{run.name} is {line}")
            shown = line
        if entry and (entry.is_waiting or entry.is_active):
            gone_at = None
        elif gone_at is None:
            gone_at = time.monotonic()
        elif time.monotonic() - gone_at > PATIENCE_S:
            outcome = without_account(attempt, job.job_id, entry or queue.accounted(job.job_id))
            attempts.note_end(run, attempt, outcome)
            note_end(attempt, "ended")
            return JobEnd(attempt, job.job_id, outcome, last)
        time.sleep(TICK_S)


def without_account(attempt: AttemptDir, job_id: int, entry: QueueEntry | None) -> Outcome:
    """The end of a job that noted none itself: cancelled, never begun, or its node was lost."""
    is_cancelled = entry is not None and entry.is_cancelled
    title = queue_of(attempt).title
    code = ExitCode.TERMINATED if is_cancelled else ExitCode.FAILED
    where = entry.nodes if entry and entry.nodes else title
    why = f"{title} cancelled" if is_cancelled else "no account of"
    text = f"{why} job {job_id} ({entry.state if entry else 'it has left the queue'})"
    if not is_cancelled and not attempt.job_log.exists():
        text += f"; it wrote no log: its nodes may not share {attempt.path}"
    return Outcome(code, folder_time(attempt.path), Failure(where, text, stopped=is_cancelled))
