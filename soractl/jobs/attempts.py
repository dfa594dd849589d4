"""Attempts inside a job: the one that begins, and the end of the one that ran."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from soractl.errors import ExitCode, SoractlError
from soractl.launch import start_point
from soractl.launch.start_point import StartPoint
from soractl.queue import record
from soractl.queue.interface import Allocation, Queue
from soractl.queue.kinds import queue_of
from soractl.queue.record import JobRecord, newest_job
from soractl.runs.events import EventLog
from soractl.runs.node_states import NodeState, read_states
from soractl.runs.post_mortem import Failure, Outcome, log_end, read_outcome, settle
from soractl.runs.progress import ProgressReader
from soractl.runs.record import read_record
from trainer.atomic_files import read_json, write_json
from trainer.run_dir import AttemptDir, RunDir

TICK_S = 0.5
EXIT_FILES_S = 10.0  # a shared folder may show a file late
TERMINATED = ExitCode.TERMINATED


def next_attempt(run: RunDir, given: Allocation, queue: Queue) -> tuple[AttemptDir, StartPoint]:
    """The attempt that was submitted, or a new one when the queue starts the job again."""
    found = newest_job(run)
    if found is None:
        raise SoractlError(f"{run.name} was not submitted to {queue.title}")
    attempt, submitted = found
    chain = tuple(job_id for job_id in submitted.chain if job_id > given.job_id)
    now = replace(submitted, job_id=given.job_id, restarts=given.restarts, chain=chain)
    if not attempt.plan.exists():
        record.write_record(attempt, now)
        return attempt, _start_of(submitted, run)
    if read_outcome(attempt) is None:  # a node was lost, and with it the batch shell
        note_end(run, attempt, cut_off(attempt, queue))
    following = copy_for(run, attempt)
    record.write_record(following, replace(now, then="queued", start=None))
    return following, start_point.for_restart(run)


def copy_for(run: RunDir, attempt: AttemptDir) -> AttemptDir:
    """The folder of the attempt after this one, with the same settings."""
    following = run.new_attempt()
    write_json(following.config_json, read_json(attempt.config_json))
    return following


def cut_off(attempt: AttemptDir, queue: Queue) -> Outcome:
    """The outcome of an attempt whose job was ended at once; a node of it that is down is why."""
    planned = read_record(attempt)
    states = read_states(attempt, planned.nodes)
    down = {}
    with suppress(SoractlError):  # a controller that does not answer must not end the job
        down = {one.name: one for one in queue.drained_nodes() if one.is_down}
    lost = _ended_by_queue(attempt, states)
    first = {name: f"{queue.title} lost it: {down[name].reason}" for name in lost if name in down}
    return settle(attempt, planned, states, {**first, **lost, **first})


def settled(
    attempt: AttemptDir,
    *,
    is_asked: bool = False,
    ended_here: bool = False,
    patience_s: float = EXIT_FILES_S,
) -> Outcome:
    """The outcome by the nodes' exit codes; srun's own says nothing.

    `is_asked`: rank 0 was asked to leave. Ranks that were ended before they could save, by that
    or by the queue, have not failed. `ended_here`: nodes without an exit code are not lost.
    """
    planned = read_record(attempt)
    end_s = time.monotonic() + (0.0 if ended_here else patience_s)
    states = read_states(attempt, planned.nodes)
    while not all(state.ended for state in states) and time.monotonic() < end_s:
        time.sleep(TICK_S)
        states = read_states(attempt, planned.nodes)
    if ended_here:
        codes = [TERMINATED if state.exit_code is None else state.exit_code for state in states]
        states = [replace(one, exit_code=code) for one, code in zip(states, codes, strict=True)]
    lost = _ended_by_queue(attempt, states)
    outcome = settle(attempt, planned, states, lost)
    if outcome.exit_code == ExitCode.FAILED and _was_ended(attempt, states, is_asked):
        return replace(outcome, exit_code=TERMINATED, first_failure=_stop_of(attempt))
    return outcome


def note_end(run: RunDir, attempt: AttemptDir, outcome: Outcome) -> None:
    """Write down how an attempt ended, in its folder and as events."""
    write_json(attempt.exit, outcome.as_json())
    lost = outcome.first_failure.lost if outcome.first_failure else ()
    step = ProgressReader(run, attempt.job_log, attempt.number).follow().global_step
    log_end(EventLog(run, "slurm"), attempt.number, step, outcome, lost)


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


def _was_ended(attempt: AttemptDir, states: Sequence[NodeState], is_asked: bool) -> bool:
    """Ranks saved before the queue's KILL; or were ended by a signal before they could.

    Others then complain of lost connections, so their accounts count for nothing.
    """
    has_account = any(int(account["rank"]) == 0 for account in attempt.rank_failures())
    by_signal = all(state.exit_code in (None, TERMINATED) for state in states)
    return attempt.stopped.exists() or by_signal or (is_asked and not has_account)


def _stop_of(attempt: AttemptDir) -> Failure:
    name = read_json(attempt.stopped)["signal"] if attempt.stopped.exists() else "SIGTERM"
    return Failure(read_record(attempt).nodes[0].name, str(name), stopped=True)


def _ended_by_queue(attempt: AttemptDir, states: Sequence[NodeState]) -> dict[str, str]:
    """A sentence for each node without an exit code."""
    words = f"{queue_of(attempt).title} ended it: it left no exit code"
    return {state.node: words for state in states if not state.ended}


def _start_of(submitted: JobRecord, run: RunDir) -> StartPoint:
    if submitted.start is None:
        return start_point.for_restart(run)
    chosen = submitted.start
    path = Path(chosen["path"]) if chosen["path"] else None
    return StartPoint(chosen["kind"], path, reset_data=chosen["reset_data"])
