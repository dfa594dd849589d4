"""Following an attempt until it ends; one failed node ends the others."""

import time
from contextlib import suppress

from soractl.launch.node_watch import NodeWatch, Timing
from soractl.launch.start import Started
from soractl.processes.selection import Selection
from soractl.processes.stop import stop
from soractl.remote.requests import Remote
from soractl.runs.events import EventKind, EventLog, TrainerEvents
from soractl.runs.node_states import ask_states, read_states
from soractl.runs.post_mortem import Outcome, settle
from soractl.runs.progress import Progress, ProgressReader
from soractl.runs.record import AttemptRecord, read_record
from soractl.terminal.hints import to_type
from soractl.terminal.meter import Display
from trainer.atomic_files import RunDirError, read_json, write_json
from trainer.run_dir import AttemptDir

GRACE_S = 20.0  # for ranks that have to be stopped
GRACE_S_WITHOUT_ALL = 2.0  # to save takes all ranks, so those that are left need no time


def follow(
    started: Started, remote: Remote, display: Display, timing: Timing | None = None
) -> tuple[Outcome, Progress]:
    """Show progress until the attempt has ended on all nodes; its outcome goes to exit.json."""
    attempt = started.attempt
    timing = timing or timing_of(attempt)
    record = read_record(attempt)
    reader = ProgressReader(started.run, attempt.node_log(record.nodes[0].name), attempt.number)
    watch = NodeWatch(attempt, record, lambda: ask_states(attempt, record, remote), timing)
    log = EventLog(started.run, "follow")
    trainers = TrainerEvents(log, attempt)
    while True:
        progress = reader.follow()
        display.show(progress)
        trainers.look(progress.global_step)
        watch.update(progress)
        if watch.ended:
            break
        if watch.failed_nodes:
            _stop_all(started, record, watch, remote, display)
            break
        time.sleep(timing.tick_s)
    outcome = settle(attempt, record, watch.states, watch.lost)
    write_json(attempt.exit, outcome.as_json())
    last = reader.follow()
    trainers.look(last.global_step)
    _write_end(log, attempt, outcome, last, watch)
    return outcome, last


def timing_of(attempt: AttemptDir) -> Timing:
    """Times of following for the attempt's settings."""
    with suppress(OSError, RunDirError, KeyError, TypeError, ValueError):
        trainer = read_json(attempt.config_json)["trainer"]
        return Timing(collective_timeout_s=float(trainer["collective_timeout_s"]))
    return Timing()


def _write_end(
    log: EventLog, attempt: AttemptDir, outcome: Outcome, last: Progress, watch: NodeWatch
) -> None:
    number, step, failure = attempt.number, last.global_step, outcome.first_failure
    if failure and not failure.stopped:
        kind = EventKind.LOST if failure.node in watch.lost else EventKind.CRASHED
        log.write(kind, attempt=number, step=step, node=failure.node, text=failure.error)
    text = f"exit code {int(outcome.exit_code)}"
    log.write(EventKind.ENDED, attempt=number, step=step, text=text)


def _stop_all(
    started: Started, record: AttemptRecord, watch: NodeWatch, remote: Remote, display: Display
) -> None:
    if not watch.lost:
        watch.find_lost()
    display.say(f"{', '.join(watch.failed_nodes)} failed; stopping all nodes")
    grace_s = GRACE_S_WITHOUT_ALL if watch.lost else GRACE_S
    stopped = stop(record.nodes, remote, Selection(run_id=record.run_id), grace_s=grace_s)
    if left := [result.node.name for result in stopped if not result.ok]:
        stop_it = to_type("kill", started.run.name)
        display.say(f"{', '.join(left)} may still run it; `{stop_it}` stops that")
    watch.states = read_states(started.attempt, record.nodes)
