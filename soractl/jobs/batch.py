"""The program of a job's batch shell: `python -m soractl.jobs.batch RUN_DIR [--supervise SPARES]`.

Each start of the job, also after a requeue, is one attempt on the nodes of the job: planned here,
started by `srun`, settled here. How it ended decides whether the job goes back into the queue.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from soractl.errors import ExitCode, SoractlError
from soractl.jobs import attempts
from soractl.jobs.chain import Way
from soractl.jobs.signals import Relay, Signals
from soractl.jobs.step import Step
from soractl.jobs.supervised import JobActor, supervise
from soractl.launch.prepare import prepare_in_job
from soractl.launch.start import write_attempt
from soractl.queue import record
from soractl.queue.ending import Ended, Ending, Next, what_follows
from soractl.queue.interface import Allocation, Queue
from soractl.queue.kinds import QUEUES, allocation
from soractl.remote.connections import Connections
from soractl.remote.local import Processes
from soractl.remote.nodes import Node
from soractl.runs.events import EventKind, EventLog, read_events
from soractl.runs.post_mortem import Failure, Outcome, read_outcome
from soractl.supervise.lease import Lease
from soractl.supervise.process import cluster_of
from soractl.terminal import output
from trainer.atomic_files import RunDirError, folder_time
from trainer.run_dir import AttemptDir, RunDir
from trainer.settings import ConfigError

TICK_S = 0.5
STANDBY = "soractl.jobs.standby"
BEFORE_KILL_S = 3.0  # what noting the end and the requeue may take


@dataclass(frozen=True)
class Shell:
    """The batch shell of a run's job."""

    run: RunDir
    given: Allocation
    signals: Signals
    spares: int | None  # nodes held for a supervised run; None: it is not supervised

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that an attempt begins on."""
        return self.given.nodes[: len(self.given.nodes) - self.held]

    @property
    def held(self) -> int:
        """Nodes that are kept as spares; a job that came back with fewer nodes has fewer."""
        return min(self.spares or 0, len(self.given.nodes) - 1)


def main(run_path: str, spares: int | None = None) -> int:
    """One start of the job; its exit code, or that of a refusal."""
    signals = Signals()
    run = RunDir(Path(run_path))
    given = allocation(os.environ)
    if given is None:
        output.error(SoractlError("this is no job", hint="`soractl launch STAGE --slurm`"))
        return ExitCode.BAD_REQUEST
    shell = Shell(run, given, signals, spares)
    with Connections() as here:
        way = Way(run, given, QUEUES[given.kind](here))
        code: int = ExitCode.FAILED
        try:
            code = _begin(shell, way)
        finally:
            if code and signals.terminated_at is None:  # else the queue decides
                way.stay_out()
        return code


def _begin(shell: Shell, way: Way) -> int:
    """Plan the attempt of this start and train."""
    run, given = shell.run, shell.given
    try:
        attempt, start = attempts.next_attempt(run, given, way.queue)
        ssh = cluster_of(run).ssh
        first = replace(given, nodes=shell.nodes)
        prepared = prepare_in_job(run, first, attempt, start, os.environ)
        write_attempt(prepared, run, attempt)
    except SoractlError as error:
        return _refused(way, error)
    except (ConfigError, RunDirError) as error:
        return _refused(way, SoractlError(str(error)))
    names = ", ".join(node.name for node in shell.nodes)
    text = f"{start.kind.replace('_', ' ')} on {names}, job {given.job_id}"
    EventLog(run, "slurm").write(EventKind.STARTED, attempt=attempt.number, text=text)
    with Connections(ssh) as remote:
        return _train(shell, attempt, way, remote)


def _refused(way: Way, error: SoractlError) -> int:
    """The end of a start that nothing was started for, noted in the newest attempt."""
    output.error(error)
    if found := record.newest_job(way.run):
        attempt, _ = found
        if read_outcome(attempt) is None:
            failure = Failure(way.given.nodes[0].name, error.message)
            attempts.note_end(
                way.run, attempt, Outcome(error.exit_code, folder_time(attempt.path), failure)
            )
        way.close(attempt)
    return error.exit_code


def _train(shell: Shell, attempt: AttemptDir, way: Way, remote: Connections) -> int:
    """The attempt to its end, with all that follow under a supervisor; then the queue, or not."""
    run, signals = shell.run, shell.signals
    with Relay(run, shell.given.nodes[0].name, signals, remote) as relay:
        if shell.spares is None:
            ended_here = _run_nodes(run, attempt, signals, way.queue)
        else:
            code = _supervise(shell, attempt, way.queue, remote)
            attempt, ended_here = run.attempts()[-1], True
            if code == ExitCode.GAVE_UP:
                with suppress(OSError):  # a full disk may be why
                    way.close(attempt)
                return code
    outcome = read_outcome(attempt)
    if outcome is None:
        outcome = attempts.settled(attempt, is_asked=relay.is_asked, ended_here=ended_here)
        attempts.note_end(run, attempt, outcome)
    following = what_follows(_ending(run, attempt, outcome, signals, way.queue, shell.given))
    return _go_on(run, attempt, following, outcome, way)


def _supervise(shell: Shell, attempt: AttemptDir, queue: Queue, remote: Connections) -> int | None:
    lease = Lease(shell.run.supervisor)
    while not lease.take():  # that of a start whose node was lost is free after a while
        time.sleep(TICK_S)
    actor = JobActor(shell.run, lease, remote, shell.given, shell.held, shell.signals)
    actor.start(attempt)
    nodes = shell.given.nodes
    words = (str(shell.run.path), str(shell.given.job_id), nodes[0].name)
    argv = queue.on_one_node(nodes[-1].name, (sys.executable, "-m", STANDBY, *words))
    watch = Processes()
    watch.start(argv, sys.stderr.buffer)
    try:
        return supervise(actor)
    finally:
        watch.close()


def _run_nodes(run: RunDir, attempt: AttemptDir, signals: Signals, queue: Queue) -> bool:
    """The scripts of all nodes; True where not all of them came to their end.

    Where one has failed the others are ended, as over ssh; and before the queue's KILL comes.
    """
    step = Step(attempt, str(run.path))
    kill_wait_s = queue.kill_wait_s()  # asked before the end comes: an answer may take long
    while step.alive:
        at = signals.terminated_at
        if at is not None and time.monotonic() - at > kill_wait_s - BEFORE_KILL_S:
            return True  # nothing is ended: they may yet save
        if step.has_left:
            return True  # the queue ends the rest, while the job already waits
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
    queue: Queue,
    given: Allocation,
) -> Ending:
    words: dict[int, Ended] = {ExitCode.OK: "ended well", ExitCode.TERMINATED: "stopped"}
    asked = any(
        event.kind == EventKind.STOP_REQUESTED and event.attempt == attempt.number
        for event in read_events(run)
    )
    terminated = signals.terminated_at is not None
    entry = None
    with suppress(SoractlError):  # a controller that does not answer: back, or out, all the same
        entry = queue.entry_now(given.job_id) if terminated else None
    return Ending(
        outcome=words.get(outcome.exit_code, "failed"),
        warned=signal.SIGUSR1 in signals.seen,
        asked_to_stop=asked or signal.SIGINT in signals.seen,
        terminated=terminated,
        at_limit=entry is not None and entry.at_limit,
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
    sys.exit(main(sys.argv[1], int(sys.argv[3]) if "--supervise" in sys.argv else None))
