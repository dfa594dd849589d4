"""The program of a job's batch shell: `python -m soractl.jobs.batch RUN_DIR`.

Each start of the job, also after a requeue, is one attempt on the nodes of the job: planned here,
started by `srun`, settled here. Of the signals, the batch shell has USR1 before a limit or a
preemption, INT from `soractl kill`, and TERM when Slurm ends the job.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from soractl.errors import ExitCode, SoractlError
from soractl.launch import start_point
from soractl.launch.prepare import prepare_in_job
from soractl.launch.start import write_attempt
from soractl.launch.start_point import StartPoint
from soractl.processes.scan import find
from soractl.processes.selection import Selection
from soractl.remote.connections import Connections
from soractl.remote.folding import fold_names
from soractl.remote.local import Processes
from soractl.remote.nodes import this_machine
from soractl.runs.events import EventKind, EventLog, read_events
from soractl.runs.node_states import NodeState, read_states
from soractl.runs.post_mortem import Failure, Outcome, read_outcome, settle
from soractl.runs.record import read_record
from soractl.slurm import record
from soractl.slurm.allocation import Allocation, allocation
from soractl.slurm.client import Slurm
from soractl.slurm.ending import Ended, Ending, Next, what_follows
from soractl.slurm.record import JobRecord, newest_job
from soractl.slurm.script import srun_command
from soractl.terminal import output
from trainer.atomic_files import read_json, write_json
from trainer.run_dir import AttemptDir, RunDir

TICK_S = 0.5
SCAN_S = 15.0
EXIT_FILES_S = 10.0  # a shared folder may show a file late
BY_SLURM = "Slurm ended it: it left no exit code"


class Signals:
    """Signals that the batch shell has had."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: self.seen.add(number))

    @property
    def wants_a_save(self) -> bool:
        """Rank 0 is to be asked to save and leave."""
        return bool(self.seen & {signal.SIGUSR1, signal.SIGINT})


def main(run_path: str) -> int:
    """One attempt of a run in this job; its exit code, or that of a refusal."""
    signals = Signals()
    run = RunDir(Path(run_path))
    given = allocation(os.environ)
    if given is None:
        output.error(SoractlError("this is no Slurm job", hint="`soractl launch STAGE --slurm`"))
        return ExitCode.BAD_REQUEST
    attempt, start = next_attempt(run, given)
    with Connections() as remote:
        try:
            prepared = prepare_in_job(run, given, attempt, start, os.environ)
            write_attempt(prepared, run, attempt)
        except SoractlError as error:
            output.error(error)
            failure = Failure(given.nodes[0].name, error.message)
            _note(run, attempt, Outcome(error.exit_code, time.time(), failure))
            record.note_end(attempt, "ended")
            return error.exit_code
        names = fold_names([node.name for node in given.nodes])
        log = EventLog(run, "slurm")
        text = f"{start.kind.replace('_', ' ')} on {names}, job {given.job_id}"
        log.write(EventKind.STARTED, attempt=attempt.number, text=text)
        _run_nodes(run, attempt, given, signals, remote)
        outcome = _settled(attempt)
        _note(run, attempt, outcome)
        following = what_follows(_ending(run, attempt, outcome, signals))
        return _go_on(run, attempt, given, following, outcome, Slurm(remote))


def next_attempt(run: RunDir, given: Allocation) -> tuple[AttemptDir, StartPoint]:
    """The attempt that was submitted, or a new one when Slurm starts the job again."""
    found = newest_job(run)
    if found is None:
        raise SoractlError(f"{run.name} was not submitted to Slurm")
    attempt, submitted = found
    if not attempt.plan.exists():
        return attempt, _start_of(submitted, run)
    if read_outcome(attempt) is None:  # its node was lost, and this program with it
        _note(run, attempt, _settled(attempt))
    following = run.new_attempt()
    write_json(following.config_json, read_json(attempt.config_json))
    record.write_record(following, JobRecord(job_id=given.job_id, restarts=given.restarts))
    return following, start_point.for_restart(run)


def tell_rank_0(run_id: str, remote: Connections) -> bool:
    """Ask rank 0, which runs on this node, to save and leave; False while there is none."""
    [found] = find([this_machine()], remote, Selection(run_id=run_id), deadline_s=SCAN_S)
    ranks = [one for one in found.processes if one.role == "rank" and one.rank == 0]
    for rank in ranks:
        os.kill(rank.pid, signal.SIGTERM)
    return bool(ranks)


def attempts_without_checkpoint(run: RunDir) -> int:
    """Number of newest attempts that began at what is now the newest checkpoint, or at none."""
    complete = run.checkpoints()
    newest = str(complete[-1].path) if complete else None
    count = 0
    for attempt in reversed(run.attempts()):
        start: Mapping[str, Any] = read_json(attempt.plan)["start"]
        if (start["path"] if start["kind"] == "resume" else None) != newest:
            break
        count += 1
    return count


def _run_nodes(
    run: RunDir, attempt: AttemptDir, given: Allocation, signals: Signals, remote: Connections
) -> None:
    """The scripts of all nodes, to their end."""
    home = os.environ.get("HOME", "/")
    argv = srun_command(len(given.nodes), attempt.path, str(run.path), home)
    programs = Processes()
    srun = programs.start(argv, sys.stderr.buffer)
    is_told = False
    while srun.alive:
        if signals.wants_a_save and not is_told:
            is_told = tell_rank_0(str(run.path), remote)
        time.sleep(TICK_S)
    programs.close()


def _settled(attempt: AttemptDir) -> Outcome:
    """The outcome by the nodes' exit codes; srun's own says nothing."""
    planned = read_record(attempt)
    end_s = time.monotonic() + EXIT_FILES_S
    states: list[NodeState] = read_states(attempt, planned.nodes)
    while not all(state.ended for state in states) and time.monotonic() < end_s:
        time.sleep(TICK_S)
        states = read_states(attempt, planned.nodes)
    lost = {state.node: BY_SLURM for state in states if not state.ended}
    outcome = settle(attempt, planned, states, lost)
    if lost and attempt.stopped.exists():  # saved before Slurm's KILL
        stopped = Failure(next(iter(lost)), str(read_json(attempt.stopped)["signal"]), stopped=True)
        return replace(outcome, exit_code=ExitCode.TERMINATED, first_failure=stopped)
    return outcome


def _ending(run: RunDir, attempt: AttemptDir, outcome: Outcome, signals: Signals) -> Ending:
    words: dict[int, Ended] = {ExitCode.OK: "ended well", ExitCode.TERMINATED: "stopped"}
    asked = any(
        event.kind == EventKind.STOP_REQUESTED and event.attempt == attempt.number
        for event in read_events(run)
    )
    return Ending(
        outcome=words.get(outcome.exit_code, "failed"),
        warned=signal.SIGUSR1 in signals.seen,
        asked_to_stop=asked or signal.SIGINT in signals.seen,
        terminated=signal.SIGTERM in signals.seen,
        without_checkpoint=attempts_without_checkpoint(run),
    )


def _note(run: RunDir, attempt: AttemptDir, outcome: Outcome) -> None:
    write_json(attempt.exit, outcome.as_json())
    text = f"exit code {int(outcome.exit_code)}"
    EventLog(run, "slurm").write(EventKind.ENDED, attempt=attempt.number, text=text)


def _go_on(
    run: RunDir,
    attempt: AttemptDir,
    given: Allocation,
    following: Next,
    outcome: Outcome,
    slurm: Slurm,
) -> int:
    log = EventLog(run, "slurm")
    about = {"attempt": attempt.number, "text": following.reason}
    if following.requeue:
        log.write(EventKind.REQUEUED, **about)
        record.note_end(attempt, "requeued")
        try:
            slurm.requeue(given.job_id)  # TERM comes at once: nothing after it is sure to run
        except SoractlError as error:
            output.error(error)
            record.note_end(attempt, "ended")
            return ExitCode.GAVE_UP
        return ExitCode.OK
    if following.gave_up:
        log.write(EventKind.GAVE_UP, **about)
    record.note_end(attempt, "ended")
    return ExitCode.GAVE_UP if following.gave_up else int(outcome.exit_code)


def _start_of(submitted: JobRecord, run: RunDir) -> StartPoint:
    if submitted.start is None:
        return start_point.for_restart(run)
    chosen = submitted.start
    path = Path(chosen["path"]) if chosen["path"] else None
    return StartPoint(chosen["kind"], path, reset_data=chosen["reset_data"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
