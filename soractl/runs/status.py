"""State of a run, and of all runs: from files and, as long as one may run, from its nodes."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from soractl.errors import ExitCode, Fault, SoractlError
from soractl.queue.drain import drained
from soractl.queue.interface import Queue, QueueEntry
from soractl.queue.kinds import queue_of_run
from soractl.queue.record import JobRecord, open_job
from soractl.remote.fan_out import everywhere
from soractl.remote.requests import Remote
from soractl.remote.ssh_command import SshOptions
from soractl.runs.find import last_attempt, no_run, stage_of
from soractl.runs.lost_nodes import lost_nodes
from soractl.runs.node_states import LOOK_DEADLINE_S, NodeState, ask_states, read_states
from soractl.runs.owner import UNSEEN, other_owner
from soractl.runs.post_mortem import Failure, Outcome, failing, read_outcome, settle
from soractl.runs.progress import Progress, ProgressReader, number, whole
from soractl.runs.record import AttemptRecord, read_record
from soractl.runs.start_lock import is_starting
from soractl.terminal.text import size
from trainer.atomic_files import RunDirError, file_time, read_json, write_json
from trainer.run_dir import AttemptDir, RunDir, runs

State = Literal[
    "never started",
    "queued",
    "starting",
    "running",
    "ended",
    "failed",
    "stopped",
    "unknown",
    "damaged",
]
Connect = Callable[[SshOptions], AbstractContextManager[Remote]]

ALL_RUNS_DEADLINE_S = 60.0
ASKED_AT_ONCE = 4  # runs; a node's sshd takes ten requests at a time
QUICK_LOOK_S = 3.0
OLD_END_S = 600.0  # after it a node that is silent is not waited for
FULL_BYTES = 2**20  # with less room not even a line of a log is sure to be written


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """A run and its newest attempt."""

    run: RunDir
    stage: str
    state: State
    attempt: int | None = None
    nodes: tuple[NodeState, ...] = ()
    progress: Progress | None = None
    first_failure: Failure | None = None
    failing: Failure | None = None  # of a rank, while processes of the attempt go on
    slowest_node: str | None = None  # of the slowest rank, where there is more than one
    disk_is_full: bool = False
    lacks_room: str = ""  # for the next save, while the run goes on; a sentence
    queue: QueueEntry | None = None  # of a run that goes through one
    queue_fault: str | None = None  # why the queue gives no answer
    restarts: int | None = None  # how often the queue started its job again
    drained: tuple[str, ...] = ()  # sentences, where the job waits for such nodes

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "run": self.run.name,
            "stage": self.stage,
            "state": self.state,
            "attempt": self.attempt,
            "progress": {**asdict(self.progress), "eta_s": self.progress.eta_s}
            if self.progress
            else None,
            "checkpoints": [checkpoint.name for checkpoint in self.run.checkpoints()],
            "incomplete": {path.name: why for path, why in self.run.incomplete().items()},
            "nodes": [node.as_json() for node in self.nodes],
            "slowest_node": self.slowest_node,
            "disk_is_full": self.disk_is_full,
            "lacks_room": self.lacks_room or None,
            "first_failure": asdict(self.first_failure) if self.first_failure else None,
            "failing": asdict(self.failing) if self.failing else None,
            "queue": self.queue.as_json() if self.queue else None,
            "queue_fault": self.queue_fault,
            "restarts": self.restarts,
            "drained": list(self.drained),
        }


def read_status(run: RunDir, remote: Remote, queue: Queue | None = None) -> RunStatus:
    """The truth also for a run that nobody follows."""
    if job := open_job(run):
        return _job_status(run, *job, queue or queue_of_run(run, remote, os.environ))
    attempt = last_attempt(run)
    if attempt is None:
        return RunStatus(run=run, stage=stage_of(run), state="never started")
    record = read_record(attempt)
    nodes = read_states(attempt, record.nodes)
    outcome = read_outcome(attempt)
    if outcome is None and any(node.exit_code != 0 for node in nodes):
        # Where every launcher has ended, only ranks that it may have left are looked for.
        deadline_s = QUICK_LOOK_S if all(node.ended for node in nodes) else LOOK_DEADLINE_S
        nodes = ask_states(attempt, record, remote, deadline_s)
    head_log = attempt.node_log(record.nodes[0].name)
    head = nodes[0]
    progress = ProgressReader(run, head_log, attempt.number).look(head.clock_unix_s, head.age_s)
    lost = lost_nodes(nodes, {}, 0.0, 0.0)
    may_run = any(node.may_run for node in nodes if node.node not in lost)
    if outcome is None and not may_run and not is_starting(run):
        outcome = settle(attempt, record, nodes, lost)
        _keep(run, attempt, outcome, is_certain=not any(node.fault for node in nodes))
    return RunStatus(
        run=run,
        stage=stage_of(run),
        state=_state(run, nodes, outcome),
        attempt=attempt.number,
        nodes=tuple(nodes),
        progress=progress,
        first_failure=outcome.first_failure if outcome else None,
        failing=failing(attempt, record) if outcome is None else None,
        slowest_node=_node_of(record, progress.slowest_rank),
        disk_is_full=_disk_is_full(run),
        lacks_room=_lacks_room(run) if outcome is None else "",
    )


def _keep(run: RunDir, attempt: AttemptDir, outcome: Outcome, *, is_certain: bool) -> None:
    """Note the end of an attempt that nobody followed, so that no later look asks its nodes.

    Where a node gave no answer, it has to be long ago. Not under a supervisor, which notes what it
    did about it, and not where this user cannot write.
    """
    if run.supervisor.exists() or other_owner(run.path):
        return
    with suppress(OSError):
        ended_s = _last_sign_s(attempt)
        now_s = file_time(attempt.path)
        is_old = now_s is not None and now_s - ended_s > OLD_END_S
        if (is_certain or is_old) and not attempt.exit.exists():
            write_json(attempt.exit, replace(outcome, ended_unix_s=ended_s).as_json())


def _last_sign_s(attempt: AttemptDir) -> float:
    """When the newest file of an attempt was written."""
    return max(path.stat().st_mtime for path in attempt.path.iterdir() if path.is_file())


def _job_status(run: RunDir, attempt: AttemptDir, job: JobRecord, queue: Queue) -> RunStatus:
    """By the queue and the run's files; ssh may not reach a queue's nodes."""
    entry: QueueEntry | None = None
    fault: str | None = None
    waits_for: tuple[str, ...] = ()
    try:
        entry = queue.entry(job.job_id)
    except SoractlError as error:  # the run's files say how far it is all the same
        fault = error.message
    if entry and entry.is_waiting and job.then == "queued" and attempt.plan.exists():
        with suppress(SoractlError):  # what is known of it stays known
            entry = queue.entry_now(job.job_id)  # it has begun since the queue was asked
    if entry and entry.lacks_nodes:
        with suppress(SoractlError):
            waits_for = tuple(drained(queue.drained_nodes()))
    nodes: tuple[NodeState, ...] = ()
    progress = None
    if attempt.plan.exists():
        planned = read_record(attempt).nodes
        nodes = tuple(read_states(attempt, planned))
        log = attempt.node_log(planned[0].name)
        progress = ProgressReader(run, log, attempt.number).look(None, None)
    state, failure = ("unknown", None) if fault else _state_of_job(entry, job.job_id, queue.title)
    return RunStatus(
        run=run,
        stage=stage_of(run),
        state=state,
        attempt=attempt.number,
        nodes=nodes,
        progress=progress,
        first_failure=failure,
        disk_is_full=_disk_is_full(run),
        lacks_room=_lacks_room(run) if state == "running" else "",
        queue=entry,
        queue_fault=fault,
        restarts=job.restarts,
        drained=waits_for,
    )


def _state_of_job(
    entry: QueueEntry | None, job_id: int, title: str
) -> tuple[State, Failure | None]:
    if entry and entry.is_waiting:
        return "queued", None
    if entry and entry.is_active:
        return "running", None
    state = entry.state if entry else "it has left the queue"
    is_cancelled = entry is not None and entry.is_cancelled
    failure = Failure(title, f"job {job_id}: {state}", stopped=is_cancelled)
    return "stopped" if is_cancelled else "failed", failure


def looks(run: RunDir, remote: Remote, every_s: float | None) -> Iterator[RunStatus]:
    """One status, or one every so many seconds until the run has ended.

    A later look that fails, as on a shared folder whose server is busy, is made again.
    """
    queue = queue_of_run(run, remote, os.environ)
    status = read_status(run, remote, queue)
    yield status
    while every_s is not None and status.state not in ("ended", "failed", "stopped"):
        time.sleep(every_s)
        with suppress(OSError, RunDirError):
            status = read_status(run, remote, queue)
            yield status


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """A run among all runs; None = not known."""

    run: RunDir
    state: State
    attempt: int | None = None
    global_step: int | None = None
    total_steps: int | None = None
    last_step_unix_s: float | None = None  # by the head node's clock
    last_step_age_s: float | None = None  # by the same clock, while it runs
    nodes: tuple[str, ...] = ()
    newest_checkpoint: str | None = None
    size_bytes: int | None = None
    failure: Failure | None = None
    fault: Fault | None = None
    note: str = ""


def list_runs(root: Path, connect: Connect) -> list[RunRow]:
    """All runs, newest first; only the nodes of those that may run are asked. None: exit code 6.

    A run whose files are damaged is a row that says so; one that was not looked at has a fault.
    """
    known = runs(root)
    if not known:
        raise no_run(str(root))
    gate = threading.Semaphore(ASKED_AT_ONCE)
    return everywhere(
        known[::-1],
        lambda run: _row(run, connect, gate),
        _row_without_answer,
        deadline_s=ALL_RUNS_DEADLINE_S,
    )


def _row(run: RunDir, connect: Connect, gate: threading.Semaphore) -> RunRow:
    facts: dict[str, Any] = {"run": run, "size_bytes": _size_bytes(run.path)}
    try:
        facts |= {**_last_step(run), "newest_checkpoint": _newest_checkpoint(run)}
        if open_job(run):
            with gate, connect(SshOptions()) as remote:
                status = read_status(run, remote)
            names = tuple(node.node for node in status.nodes)
            return _asked_row({**facts, "attempt": status.attempt, "nodes": names}, status)
        attempt = last_attempt(run)
        if attempt is None:
            return RunRow(**facts, state="starting" if is_starting(run) else "never started")
        record = read_record(attempt)
        facts |= {"attempt": attempt.number, "nodes": tuple(node.name for node in record.nodes)}
        outcome = _outcome_on_disk(attempt, record)
        if outcome:
            failure = outcome.first_failure
            return RunRow(**facts, state=_state(run, (), outcome), failure=failure)
        with gate, connect(record.ssh) as remote:
            return _asked_row(facts, read_status(run, remote))
    except RunDirError as error:
        return RunRow(**facts, state="damaged", note=str(error))
    except SoractlError as error:  # such as a machine without ssh
        return RunRow(**facts, state="unknown", note=error.message)
    except OSError as error:  # of the file system: the files may be as they should be
        return RunRow(**facts, state="unknown", note=_in_words(error, run))


def _row_without_answer(run: RunDir, fault: Fault) -> RunRow:
    return RunRow(run=run, state="unknown", fault=fault, note=str(fault))


def _asked_row(facts: dict[str, Any], status: RunStatus) -> RunRow:
    notes = [status.queue_fault] if status.queue_fault else []
    if status.queue and (owner := other_owner(status.run.path)):
        notes.append(f"belongs to {owner}")
    notes += [f"{node.node}: {node.fault}" for node in status.nodes if node.fault]
    notes += [f"{node.node}: its launcher is gone" for node in status.nodes if node.outlived_by]
    if status.state == "unknown" and (owners := {node.owner for node in status.nodes} - {None}):
        notes.append(f"belongs to {owners.pop()}, {UNSEEN}")
    progress = status.progress
    is_running = status.state == "running"
    if is_running and progress and progress.is_stalled:
        notes.append(progress.stall)
    if is_running and status.failing:
        notes.append("ranks have failed, and processes go on")
    if is_running and status.disk_is_full:
        notes.append("the disk is full")
    elif is_running and status.lacks_room:
        notes.append("the disk has no room for a checkpoint")
    age_s = progress.heartbeat_age_s if is_running and progress else None
    failure = status.first_failure
    return RunRow(
        **facts,
        state=status.state,
        last_step_age_s=age_s,
        failure=failure,
        note="" if failure else "; ".join(notes),
    )


def _in_words(error: OSError, run: RunDir) -> str:
    if not error.filename:
        return str(error)
    path = str(error.filename).removeprefix(f"{run.path}/")
    return f"{path} cannot be read: {error.strerror}"


def _outcome_on_disk(attempt: AttemptDir, record: AttemptRecord) -> Outcome | None:
    """The end as someone noted it, or as every launcher did that ended well."""
    if outcome := read_outcome(attempt):
        return outcome
    states = read_states(attempt, record.nodes)
    if all(state.exit_code == 0 for state in states):
        return settle(attempt, record, states, {})
    return None


def _last_step(run: RunDir) -> dict[str, Any]:
    try:
        beat = read_json(run.heartbeat)
    except (OSError, RunDirError):
        return {}
    return {
        "global_step": whole(beat, "global_step"),
        "total_steps": whole(beat, "total_steps"),
        "last_step_unix_s": number(beat, "time_unix_s"),
    }


def _newest_checkpoint(run: RunDir) -> str | None:
    complete = run.checkpoints()
    return complete[-1].name if complete else None


def _size_bytes(folder: Path) -> int:
    """Bytes of all files in a folder that can be seen."""
    total = 0
    with suppress(OSError), os.scandir(folder) as entries:  # removed at this moment, or not ours
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += _size_bytes(Path(entry.path))
            else:
                with suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def _disk_is_full(run: RunDir) -> bool:
    """The run's file system has no room, for bytes or for files."""
    try:
        disk = os.statvfs(run.path)
    except OSError:
        return False
    no_files_left = disk.f_files > 0 and disk.f_favail == 0
    return disk.f_bavail * disk.f_frsize < FULL_BYTES or no_files_left


def _lacks_room(run: RunDir) -> str:
    """A sentence where the next checkpoint, if it is as large as the newest one, does not fit."""
    with suppress(IndexError, OSError):
        needed = run.checkpoints()[-1].manifest.size_bytes
        if (free := shutil.disk_usage(run.path).free) < needed:
            return f"{size(free)} are free, a checkpoint takes {size(needed)}: none is saved"
    return ""


def _node_of(record: AttemptRecord, rank: int | None) -> str | None:
    """The node of one of several ranks."""
    ranks = sum(record.ranks)
    return record.node_of_rank(rank) if rank is not None and 1 < ranks > rank else None


def _state(run: RunDir, nodes: Sequence[NodeState], outcome: Outcome | None) -> State:
    if outcome:
        words: dict[int, State] = {ExitCode.OK: "ended", ExitCode.TERMINATED: "stopped"}
        return words.get(outcome.exit_code, "failed")
    if any(node.processes for node in nodes):
        return "running"
    return "starting" if is_starting(run) else "unknown"
