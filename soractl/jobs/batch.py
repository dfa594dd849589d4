"""The program of a job's batch shell: `python -m soractl.jobs.batch RUN_DIR`.

Each start of the job, also after a requeue, is one attempt on the nodes of the job: planned here,
started by `srun`, settled here. How it ended decides whether the job goes back into the queue.
"""

import os
import signal
import sys
import time
from pathlib import Path

from soractl.errors import ExitCode, SoractlError
from soractl.jobs import attempts
from soractl.jobs.chain import Way
from soractl.jobs.signals import Relay, Signals
from soractl.jobs.step import Step
from soractl.launch.prepare import prepare_in_job
from soractl.launch.start import write_attempt
from soractl.remote.connections import Connections
from soractl.remote.folding import fold_names
from soractl.runs.events import EventKind, EventLog, read_events
from soractl.runs.post_mortem import Failure, Outcome
from soractl.slurm import record
from soractl.slurm.allocation import Allocation, allocation
from soractl.slurm.client import Slurm
from soractl.slurm.ending import Ended, Ending, Next, what_follows
from soractl.slurm.queue import AT_LIMIT
from soractl.terminal import output
from trainer.run_dir import AttemptDir, RunDir

TICK_S = 0.5
BEFORE_KILL_S = 3.0  # what noting the end and the requeue may take


def main(run_path: str) -> int:
    """One attempt of a run in this job; its exit code, or that of a refusal."""
    signals = Signals()
    run = RunDir(Path(run_path))
    given = allocation(os.environ)
    if given is None:
        output.error(SoractlError("this is no Slurm job", hint="`soractl launch STAGE --slurm`"))
        return ExitCode.BAD_REQUEST
    attempt, start = attempts.next_attempt(run, given)
    with Connections() as remote:
        slurm = Slurm(remote)
        way = Way(run, given, slurm)
        try:
            prepared = prepare_in_job(run, given, attempt, start, os.environ)
            write_attempt(prepared, run, attempt)
        except SoractlError as error:
            output.error(error)
            failure = Failure(given.nodes[0].name, error.message)
            attempts.note_end(run, attempt, Outcome(error.exit_code, time.time(), failure))
            way.close(attempt)
            return error.exit_code
        names = fold_names([node.name for node in given.nodes])
        log = EventLog(run, "slurm")
        text = f"{start.kind.replace('_', ' ')} on {names}, job {given.job_id}"
        log.write(EventKind.STARTED, attempt=attempt.number, text=text)
        with Relay(str(run.path), signals, remote) as relay:
            ended_here = _run_nodes(run, attempt, signals, slurm)
        outcome = attempts.settled(attempt, is_told=relay.is_told, ended_here=ended_here)
        attempts.note_end(run, attempt, outcome)
        following = what_follows(_ending(run, attempt, outcome, signals, slurm, given))
        return _go_on(run, attempt, following, outcome, way)


def _run_nodes(run: RunDir, attempt: AttemptDir, signals: Signals, slurm: Slurm) -> bool:
    """The scripts of all nodes; True where not all of them came to their end.

    Where one has failed the others are ended, as over ssh; and before Slurm's KILL comes.
    """
    step = Step(attempt, str(run.path))
    kill_wait_s: float | None = None
    while step.alive:
        if (at := signals.terminated_at) is not None:
            kill_wait_s = slurm.kill_wait_s() if kill_wait_s is None else kill_wait_s
            if time.monotonic() - at > kill_wait_s - BEFORE_KILL_S:
                return True  # nothing is ended: they may yet save
        if step.is_overdue:
            step.end()
            return True
        time.sleep(TICK_S)
    step.end()
    return False


def _ending(
    run: RunDir,
    attempt: AttemptDir,
    outcome: Outcome,
    signals: Signals,
    slurm: Slurm,
    given: Allocation,
) -> Ending:
    words: dict[int, Ended] = {ExitCode.OK: "ended well", ExitCode.TERMINATED: "stopped"}
    asked = any(
        event.kind == EventKind.STOP_REQUESTED and event.attempt == attempt.number
        for event in read_events(run)
    )
    terminated = signals.terminated_at is not None
    entry = slurm.entry_now(given.job_id) if terminated else None
    return Ending(
        outcome=words.get(outcome.exit_code, "failed"),
        warned=signal.SIGUSR1 in signals.seen,
        asked_to_stop=asked or signal.SIGINT in signals.seen,
        terminated=terminated,
        at_limit=entry is not None and entry.reason == AT_LIMIT,
        without_checkpoint=attempts.attempts_without_checkpoint(run),
    )


def _go_on(run: RunDir, attempt: AttemptDir, following: Next, outcome: Outcome, way: Way) -> int:
    log = EventLog(run, "slurm")
    about = {"attempt": attempt.number, "text": following.reason}
    if following.requeue:
        log.write(EventKind.REQUEUED, **about)
        try:
            way.back(attempt)
        except SoractlError as error:
            output.error(error)
            record.note_end(attempt, "ended")
            return ExitCode.GAVE_UP
        return ExitCode.OK
    if following.gave_up:
        log.write(EventKind.GAVE_UP, **about)
    way.close(attempt)
    return ExitCode.GAVE_UP if following.gave_up else int(outcome.exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
