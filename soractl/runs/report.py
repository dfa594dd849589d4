"""Lines and JSON of `status`, `runs`, `logs`, `events` and `kill`."""

import json
import textwrap
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from soractl.errors import INTERRUPTED
from soractl.processes.scan import NodeProcesses
from soractl.processes.selection import Process
from soractl.processes.stop import StopResult
from soractl.remote.folding import fold_lines, fold_names, fold_pairs
from soractl.remote.nodes import Node
from soractl.runs.events import Event
from soractl.runs.find import last_attempt, stage_of
from soractl.runs.kill import Killed
from soractl.runs.lost_nodes import resume_on
from soractl.runs.node_log import NodeLog
from soractl.runs.node_states import NodeState
from soractl.runs.owner import other_owner
from soractl.runs.post_mortem import Failure
from soractl.runs.progress import Progress
from soractl.runs.record import read_record
from soractl.runs.status import RunRow, RunStatus
from soractl.terminal import text
from soractl.terminal.hints import to_type
from soractl.terminal.lines import Verbatim
from soractl.terminal.table import Table
from soractl.terminal.text import span
from trainer.atomic_files import RunDirError
from trainer.checkpoint_dir import step_and_epoch
from trainer.run_dir import RunDir

TRACEBACK_LINES = 25
DISK_IS_FULL = "full: steps, logs and checkpoints are lost until there is room"
RUN_HEADERS = ("RUN", "STATE", "STEP", "LAST STEP", "CHECKPOINT", "SIZE", "NODES", "NOTE")
LONGEST_NOTE = 120  # characters; `status` shows all
STATE_STYLES = {"running": "green", "failed": "red", "damaged": "red"}


def status_lines(status: RunStatus, more: Sequence[tuple[str, str]] = ()) -> list[str]:
    """Lines of `status`: the run, `more` that others know of it, and its failure if it failed."""
    rows = [("run", text.path(status.run.path)), ("stage", status.stage)]
    if status.attempt is not None:
        nodes = f" on {text.count(len(status.nodes), 'node')}" if status.nodes else ""
        rows.append(("state", f"{status.state} (attempt {status.attempt}{nodes})"))
    else:
        rows.append(("state", status.state))
    rows += _queue_rows(status)
    if status.progress:
        rows += _progress_rows(status.progress, status.state)
        rows += _slowest_rows(status)
    rows.append(("saved", checkpoints(status.run)))
    if status.failing:
        rows.append(("failing", f"{failure_line(status.failing)}; processes of the run go on"))
    if status.disk_is_full:
        rows.append(("disk", DISK_IS_FULL))
    elif status.lacks_room:
        rows.append(("disk", f"{status.lacks_room} until there is room"))
    unsettled = status.state in ("running", "unknown")
    for owner in sorted({node.owner for node in status.nodes if unsettled and node.owner}):
        rows.append(("owner", f"{owner}; the processes of another user cannot be seen"))
    if unsettled:
        rows += fold_pairs((node.node, why) for node in status.nodes if (why := _oddity(node)))
    shown = text.pairs([*rows, *more])
    if failure := status.first_failure:
        why = (
            f"stopped by {failure.error}"
            if failure.stopped
            else f"failure: {failure_line(failure)}"
        )
        shown += [why, *failure_details(failure)]
        shown += next_lines(status.run, failure)
    return shown


def _queue_rows(status: RunStatus) -> list[tuple[str, str]]:
    rows = []
    if status.queue:
        again = f", started again {text.count(status.restarts, 'time')}" if status.restarts else ""
        rows.append(("queue", f"{status.queue.in_words}{again}"))
    if status.queue_fault:
        rows.append(("queue", f"unknown: {status.queue_fault}"))
    if (status.queue or status.queue_fault) and (owner := other_owner(status.run.path)):
        rows.append(("owner", f"{owner}, and so is its job"))
    return rows + [("drained", line) for line in status.drained]


def _oddity(node: NodeState) -> str:
    if node.outlived_by:
        return f"its launcher is gone, {text.count(node.outlived_by, 'rank')} of the run go on"
    if node.fault:
        return str(node.fault)
    return f"ended with exit code {node.exit_code}" if node.exit_code else ""


def runs_parts(rows: Sequence[RunRow]) -> list[str | Table]:
    """A row for each run, newest first, and how many are in which state."""
    number = Counter(row.state for row in rows)
    states = ", ".join(f"{number[state]} {state}" for state in number)
    styles = tuple(STATE_STYLES.get(row.state, "") for row in rows)
    table = Table(RUN_HEADERS, tuple(map(_run_cells, rows)), words=2, styles=styles)
    return [table, f"{text.count(len(rows), 'run')}: {states}"]


def runs_json(rows: Sequence[RunRow]) -> dict[str, Any]:
    """The same for programs."""
    return {"runs": [_run_json(row) for row in rows]}


def _run_cells(row: RunRow) -> tuple[str, ...]:
    step = "-"
    if row.global_step is not None:
        step = f"{row.global_step}/{row.total_steps or '?'}"
    failure = failure_line(row.failure) if row.failure and not row.failure.stopped else ""
    note = textwrap.shorten(failure or row.note, LONGEST_NOTE, placeholder=" ...")
    position = step_and_epoch(row.newest_checkpoint or "")
    return (
        row.run.name,
        row.state,
        step,
        _when(row),
        str(position[0]) if position else "-",
        text.size(row.size_bytes) if row.size_bytes is not None else "-",
        fold_names(row.nodes) if row.nodes else "-",
        note or "-",
    )


def _when(row: RunRow) -> str:
    """Of the last step: how long ago while it runs, else when, by the head node's clock."""
    if row.last_step_age_s is not None:
        return f"{text.duration(row.last_step_age_s)} ago"
    if row.last_step_unix_s is None:
        return "-"
    return time.strftime("%m-%d %H:%M", time.localtime(row.last_step_unix_s))


def _run_json(row: RunRow) -> dict[str, Any]:
    values = {**asdict(replace(row, fault=None)), "run": row.run.name, "stage": stage_of(row.run)}
    del values["fault"]
    return {**values, "note": row.note or None}


def log_line(log: NodeLog, line: str, *, named: bool) -> str:
    """A line of a node's log, with its node where there are several."""
    return f"{log.node}: {line}" if named else line


def event_line(event: Event) -> str:
    """`03:12:44  attempt 2  hung  step 812  n2: rank 5 never entered all_reduce 1207`."""
    when = time.strftime("%m-%d %H:%M:%S", time.localtime(event.time_unix_s))
    attempt = f"attempt {event.attempt}" if event.attempt is not None else ""
    step = f"step {event.step}" if event.step is not None else ""
    text = ": ".join(part for part in (event.node, event.text) if part)
    evidence = f"({event.evidence})" if event.evidence else ""
    parts = [f"{when}  {attempt:<10}  {event.kind:<14}", step, text, evidence]
    return "  ".join(part for part in parts if part).rstrip()


def events_json(run: RunDir, events: Sequence[Event]) -> dict[str, Any]:
    """The same for programs."""
    return {"run": run.name, "events": [event.as_json() for event in events]}


def event_json_line(event: Event) -> str:
    """An event that came later, as one line of JSON."""
    return json.dumps(event.as_json())


def kill_lines(killed: Killed | None) -> list[str]:
    """Processes that `kill` found, equal nodes in one line, and what became of them."""
    if killed is None:
        return ["no run of yours is running"]
    if not any(node.processes or node.fault for node in killed.found):
        return [f"nothing of {killed.title} is running"]
    if killed.interrupted:
        return [
            *fold_lines(map(_found, killed.found)),
            f"interrupted: nothing of {killed.title} was stopped",
        ]
    if not killed.stopped:
        return [f"would stop {killed.title}", *fold_lines(map(_found, killed.found))]
    stopped = fold_lines(map(_stopped, killed.stopped))
    gone = text.count(
        sum(len(node.found) - len(node.survivors) for node in killed.stopped),
        "process",
        "processes",
    )
    if any(node.fault == INTERRUPTED for node in killed.stopped):
        return [
            *stopped,
            f"interrupted: {gone} of {killed.title} stopped; what ignores TERM stays",
        ]
    return [*stopped, f"{killed.title}: {gone} stopped"]


def kill_progress(killed: Killed, grace_s: float) -> str:
    """Line of `kill` while processes have time to end."""
    asked = text.count(sum(len(node.processes) for node in killed.found), "process", "processes")
    return f"{killed.title}: asking {asked} to end; KILL after {span(grace_s)} (--grace)"


def kill_json(killed: Killed | None) -> dict[str, Any]:
    """The same for programs."""
    if killed is None:
        return {"target": None, "nodes": []}
    nodes = killed.stopped or killed.found
    return {"target": killed.title, "nodes": [_node_json(node) for node in nodes]}


def _node_json(node: NodeProcesses | StopResult) -> dict[str, Any]:
    fault = str(node.fault) if node.fault else None
    return {**asdict(replace(node, fault=None)), "node": node.node.name, "error": fault}


def _found(node: NodeProcesses) -> tuple[str, str]:
    return node.node.name, str(node.fault or _kinds(node.processes))


def _stopped(node: StopResult) -> tuple[str, str]:
    return node.node.name, _end(node)


def _end(node: StopResult) -> str:
    if node.fault == INTERRUPTED and node.found:
        return f"{_kinds(node.found)}; TERM was sent, KILL was not"
    if node.fault == INTERRUPTED:
        return "interrupted before anything was sent"
    if node.fault and not node.found:
        return str(node.fault)
    parts = [_kinds(node.found)]
    parts += [f"{node.killed} by SIGKILL"] if node.killed else []
    parts += [f"still there: {_process(process)}" for process in node.survivors]
    parts += [f"GPU memory still held by {pid}" for pid in node.gpu_pids]
    parts += [str(node.fault)] if node.fault else []
    return "; ".join(parts)


def _kinds(processes: Sequence[Process]) -> str:
    if not processes:
        return "nothing there"
    number = Counter(process.role for process in processes)
    kinds = [
        text.count(number[role], role) if role != "other" else f"{number[role]} other"
        for role in ("rank", "worker", "other")
        if number[role]
    ]
    return ", ".join(kinds)


def _process(process: Process) -> str:
    state = " in state D, which only the kernel ends" if process.state == "D" else ""
    return f"{process.pid}{state} {process.command[:80]}".rstrip()


def checkpoints(run: RunDir) -> str:
    """Number of complete checkpoints, the newest, and those that may be complete."""
    complete = run.checkpoints()
    newest = f", the newest: {text.path(complete[-1].path)}" if complete else ""
    unknown = "".join(f"; {one.path.name} may be one: {one.reason}" for one in run.unknown())
    return f"{text.count(len(complete), 'complete checkpoint')}{newest}{unknown}"


def failure_line(failure: Failure) -> str:
    """Rank, node and error of a failure."""
    rank = f"rank {failure.rank} on " if failure.rank is not None else ""
    return f"{rank}{failure.node}: {failure.error}"


def next_lines(run: RunDir, failure: Failure) -> list[str]:
    """Commands to type after a failure, and to go on without nodes that do not answer."""
    command, attempt = next_command(run, failure.remedy or {}), last_attempt(run)
    if command is None or attempt is None:
        return []
    lines: list[str] = [Verbatim(f"next: `{command}`")]
    left: list[Node] = []
    with suppress(OSError, RunDirError):  # the plan cannot be read any more
        left = [node for node in read_record(attempt).nodes if node.name not in failure.lost]
    if failure.lost and left:
        without = resume_on(run.name, left)
        lines.append(Verbatim(f"without {fold_names(failure.lost)}: `{without}`"))
    return lines


def next_command(run: RunDir, remedy: Mapping[str, Any]) -> str | None:
    """Command to type after a failure, with the options that the trainer's remedy asks for."""
    if folder := remedy.get("encode_features"):
        return to_type("data", "encode", stage_of(run), "--out", folder)
    if not run.checkpoints():
        return None
    words = [remedy.get("checkpoint") or run.name]
    words += ["--reset-data"] if remedy.get("reset_data") else []
    for name, value in remedy.get("settings", {}).items():
        words += ["--set", f"{name}={value}"]
    return to_type("resume", *words)


def failure_details(failure: Failure) -> list[str]:
    """Traceback of the rank, or the last lines of its node's log."""
    lines: list[str] = [
        Verbatim(f"  {line}") for line in (failure.traceback or "").splitlines()[-TRACEBACK_LINES:]
    ]
    if failure.log_tail and not failure.traceback:
        lines += [
            f"last lines of {failure.node}.log:",
            *(Verbatim(f"  {line}") for line in failure.log_tail),
        ]
    return lines


def _slowest_rows(status: RunStatus) -> list[tuple[str, str]]:
    """The rank that takes most of a step, without waiting for the others."""
    progress = status.progress
    if not progress or status.slowest_node is None or len(status.nodes) == 0:
        return []
    if not progress.slowest_s or not progress.mean_s or status.state != "running":
        return []
    own, mean = f"{progress.slowest_s:.3g} s", f"{progress.mean_s:.3g} s"
    where = f"rank {progress.slowest_rank} on {status.slowest_node}"
    return [("slowest", f"{where}: {own} of its own a step, all ranks {mean}")]


def _progress_rows(progress: Progress, state: str) -> list[tuple[str, str]]:
    rows = []
    if progress.global_step is not None or state in ("starting", "running"):
        rows.append(("at", progress.one_line(running=state in ("starting", "running"))))
    if progress.heartbeat_age_s is not None:
        rows.append(("last step", f"{text.duration(progress.heartbeat_age_s)} ago"))
    if progress.loss is not None and progress.first_loss is not None:
        rows.append(("loss", f"{progress.first_loss:.4f} at first, {progress.loss:.4f} now"))
    return rows
