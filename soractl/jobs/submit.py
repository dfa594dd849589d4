"""An attempt as a job: its script, its folder and its place in a queue."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from soractl.cluster.rank_environment import carried
from soractl.errors import ExitCode, SoractlError
from soractl.jobs.chain import forge
from soractl.launch.prepare import Prepared
from soractl.launch.start import can_write, create
from soractl.queue.interface import Job, Queue
from soractl.queue.kinds import QUEUES
from soractl.queue.record import JobRecord, open_job, write_record
from soractl.remote.requests import Remote
from soractl.runs.events import EventKind, EventLog, read_events
from soractl.runs.start_lock import start_lock
from soractl.supervise.quarantine import read_book
from soractl.terminal.hints import to_type
from trainer.atomic_files import write_json
from trainer.run_dir import AttemptDir, RunDir
from trainer.settings import dump

# Where programs of the queue and of the user lie; a requeued job may run when nobody is logged in.
FROM_HERE = ("HOME", "USER", "PATH", "PYTHONPATH", "LANG", "SLURM_CONF")


@dataclass(frozen=True)
class Submitted:
    """An attempt that waits in the queue."""

    run: RunDir
    attempt: AttemptDir
    job_id: int


def next_script(prepared: Prepared, queue: Queue, *, supervised: bool) -> str:
    """The script of the next attempt; nothing is made yet."""
    run = RunDir(prepared.plan.run)
    number = len(run.attempts()) + 1
    return queue.script(job_of(prepared, run, run.attempt(number), supervised=supervised))


def submit(
    prepared: Prepared, command_line: Sequence[str], remote: Remote, *, supervised: bool = False
) -> Submitted:
    """Make the run or its next attempt and submit it; SoractlError, exit code 5, if refused.

    A refusal leaves nothing behind.
    """
    queue = QUEUES[prepared.site.cluster.kind](remote)
    if prepared.run is not None:
        refuse_if_queued(prepared.run, queue)
    queue.check(next_script(prepared, queue, supervised=supervised))
    with can_write(prepared.plan.run.parent):
        run = prepared.run or create(prepared, command_line, remote)
    with can_write(run.path, made=prepared.run is None), start_lock(run):
        attempt = run.new_attempt()
        text = queue.script(job_of(prepared, run, attempt, supervised=supervised))
        if prepared.run is None:
            write_json(run.config_json, dump(prepared.config))
        write_json(attempt.config_json, dump(prepared.config))
        attempt.job_script.write_text(text)
        job_id: int | None = None
        try:
            job_id = queue.submit(text)
            start = prepared.plan.start.as_json()
            kind = prepared.site.cluster.kind
            write_record(attempt, JobRecord(job_id=job_id, kind=kind, start=start))
            forge(run, attempt, queue, prepared.site.cluster.jobs.chain)
        except BaseException:
            _withdraw(run, job_id, queue)
            shutil.rmtree(attempt.path if prepared.run else run.path)
            raise
    EventLog(run, "launch").write(
        EventKind.SUBMITTED, attempt=attempt.number, text=f"job {job_id} of {queue.title}"
    )
    return Submitted(run, attempt, job_id)


def _withdraw(run: RunDir, job_id: int | None, queue: Queue) -> None:
    """Take out of the queue what was submitted: those behind it first, so that none begins."""
    with suppress(SoractlError):  # also a job whose id did not arrive
        queue.cancel_waiting(run.path)
    if job_id is not None:
        with suppress(SoractlError):  # it may have begun
            queue.cancel(job_id)


def refuse_if_queued(run: RunDir, queue: Queue) -> None:
    """SoractlError, exit code 5, while a job of the run waits or runs."""
    found = open_job(run)
    entry = queue.entry_now(found[1].job_id) if found else None
    if entry and (entry.is_waiting or entry.is_active):
        raise SoractlError(
            f"{run.name} is {entry.in_words}",
            hint=f"`{to_type('kill', run.name)}` ends it",
            exit_code=ExitCode.REFUSED,
        )


def job_of(prepared: Prepared, run: RunDir, attempt: AttemptDir, *, supervised: bool) -> Job:
    """The job of an attempt."""
    blamed = tuple(read_book(run.path.parent).nodes)
    settings = prepared.site.cluster.jobs
    spares = settings.spares if supervised else 0
    supervise = ("--supervise", str(spares)) if supervised else ()
    return Job(
        run=run.path,
        nodes=len(prepared.plan.nodes) + spares,
        log=attempt.job_log,
        workdir=prepared.plan.workdir,
        program=(sys.executable, "-m", "soractl.jobs.batch", str(run.path), *supervise),
        environment=_environment(prepared.site.environ),
        settings=settings,
        lead_s=lead_s(save_seconds(run)),
        # Its old nodes are kept for an expedited job: not where one of them is to blame.
        expedite=not blamed,
        exclude=blamed,
        outlives_nodes=supervised,
    )


def lead_s(saves_s: list[float]) -> int:
    """Seconds that a run needs between warning and limit: twice its slow saves, and half a minute.

    >>> lead_s([]), lead_s([4.0, 100.0])
    (120, 230)
    """
    if not saves_s:
        return 120
    slow_s = sorted(saves_s)[min(len(saves_s) - 1, int(0.95 * len(saves_s)))]
    return max(60, round(2 * slow_s) + 30)


def save_seconds(run: RunDir) -> list[float]:
    """Durations of the saves of a run that somebody watched."""
    begun: dict[int | None, float] = {}
    found = []
    for event in read_events(run):
        if event.kind == EventKind.SAVE_BEGUN:
            begun[event.step] = event.time_unix_s
        elif event.kind == EventKind.SAVED and event.step in begun:
            found.append(event.time_unix_s - begun[event.step])
    return found


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    known = {name: environ[name] for name in FROM_HERE if environ.get(name)}
    return {**known, **carried(environ, alone=False)}
