"""Events of a run: one line each in `events.jsonl`, appended by whoever knows of them.

A line is one write to a file opened for appending, so that writers on several machines do not mix
theirs; a full disk loses an event and never ends what reports it. What the trainer's own files say
(first steps, checkpoints) is added at reading when nobody watched.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from soractl.files.growing import GrowingFile
from soractl.runs.progress import number, whole
from trainer.atomic_files import folder_time
from trainer.manifest import MANIFEST
from trainer.run_dir import AttemptDir, RunDir

POLL_S = 0.5
OPERATORS = {"kill", "stop"}  # who writes events of an operator's commands


class EventKind(StrEnum):
    """Kinds of events."""

    SUBMITTED = "submitted"
    STARTED = "started"
    FIRST_STEP = "first step"
    SAVE_BEGUN = "save begun"
    SAVED = "saved"
    SAVE_GIVEN_UP = "save given up"  # such as on a full disk; training goes on
    SLOW = "slow"
    SUSPECT = "suspect"
    HUNG = "hung"
    CRASHED = "crashed"
    LOST = "lost"
    ORPHANED = "orphaned"  # a launcher is gone, its ranks train on
    BLIND = "blind"
    RECOVERED = "recovered"  # from slow, suspect or blind, without any action
    EVIDENCE = "evidence"
    KILLED = "killed"
    RESTARTED = "restarted"
    REQUEUED = "requeued"
    WAITING = "waiting"
    QUARANTINED = "quarantined"
    LIFTED = "lifted"
    SPARE = "spare"  # one that waits can, or cannot, take a place
    SUPERVISED = "supervised"
    NOTIFIED = "notified"
    STOP_REQUESTED = "stop requested"
    GAVE_UP = "gave up"
    ALARM = "alarm"  # videos of a checkpoint that are blank, frozen or all alike
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a run; None = not known, or it has none."""

    time_unix_s: float  # by the clock that dates the run's files
    kind: str  # an EventKind, or one of a later version
    by: str  # launch, follow, supervisor, kill, stop, eval, trainer
    attempt: int | None = None
    step: int | None = None
    node: str | None = None
    text: str = ""
    evidence: str | None = None  # a path

    def as_json(self) -> dict[str, Any]:
        """As a line of `events.jsonl` has it, without what is not known."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}


@dataclass(frozen=True)
class EventLog:
    """Log to which one program appends the events of a run."""

    run: RunDir
    by: str

    def write(self, kind: EventKind, **values: Any) -> None:
        """Append an event with the fields of Event; what cannot be written is lost."""
        event = Event(time_unix_s=folder_time(self.run.path), kind=kind, by=self.by, **values)
        with suppress(OSError):
            _append(self.run.events, json.dumps(event.as_json()))


def read_events(run: RunDir) -> list[Event]:
    """The recorded events in the order of their lines; damaged and half lines are passed over."""
    return list(_parsed(GrowingFile(run.events).new_lines()))


def all_events(run: RunDir, rows: Sequence[Mapping[str, Any]] | None = None) -> list[Event]:
    """The recorded events and those that only the trainer's files know of, by time.

    `rows` are those of `metrics_rows`, where they have been read.
    """
    recorded = read_events(run)
    known = {(event.kind, event.step) for event in recorded}
    found = _derived(run, metrics_rows(run) if rows is None else rows)
    derived = [event for event in found if (event.kind, event.step) not in known]
    by_time = sorted([*recorded, *derived], key=lambda event: event.time_unix_s)
    return list(_with_one_first_step(by_time))


def _with_one_first_step(events: Iterable[Event]) -> Iterator[Event]:
    """The earliest first step of each attempt: who began late to watch noted another one."""
    begun: set[int | None] = set()
    for event in events:
        if event.kind != EventKind.FIRST_STEP:
            yield event
        elif event.attempt not in begun:
            begun.add(event.attempt)
            yield event


def operators_stops(run: RunDir, attempt: int) -> list[Event]:
    """The begins and ends of an operator's commands that stop an attempt, the first one first."""
    kinds = (EventKind.KILLED, EventKind.STOP_REQUESTED)
    return [
        event
        for event in read_events(run)
        if event.kind in kinds and event.attempt == attempt and event.by in OPERATORS
    ]


def new_events(run: RunDir, known: int = 0) -> Iterator[Event]:
    """Events as they come, after the first `known` recorded ones, for ever."""
    file, seen = GrowingFile(run.events), 0
    while True:
        for event in _parsed(file.new_lines()):
            seen += 1
            if seen > known:
                yield event
        time.sleep(POLL_S)


class TrainerEvents:
    """Events that the trainer's files show to someone who watches: first step, saves."""

    def __init__(self, log: EventLog, attempt: AttemptDir) -> None:
        self._log, self._attempt = log, attempt
        self._first_step: int | None = None
        self._drafts, self._published = log.run.steps_of_saves()

    def look(self, step: int | None) -> None:
        """Write what is new, unless another watcher already has; `step`: the last finished one."""
        drafts, published = self._log.run.steps_of_saves()
        if step is not None and self._first_step is None:
            self._first_step = step
            self._once(EventKind.FIRST_STEP, step)
        for saving in sorted(drafts - self._drafts):
            self._once(EventKind.SAVE_BEGUN, saving)
        for saved in sorted(published - self._published):
            self._once(EventKind.SAVED, saved)
        self._drafts, self._published = drafts, published

    def given_up(self, step: int, reason: str) -> None:
        """Write that a save was given up, unless that is known."""
        self._once(EventKind.SAVE_GIVEN_UP, step, reason)

    def _once(self, kind: EventKind, step: int, text: str = "") -> None:
        number = self._attempt.number
        for event in read_events(self._log.run):
            is_same = event.step == step or kind is EventKind.FIRST_STEP
            if event.kind == kind and event.attempt == number and is_same:
                return
        self._log.write(kind, attempt=number, step=step, text=text)


def _derived(run: RunDir, rows: Sequence[Mapping[str, Any]]) -> Iterator[Event]:
    begun: set[int] = set()
    for row in rows:
        attempt = whole(row, "attempt") or 0
        if attempt and attempt not in begun and "time_unix_s" in row:
            begun.add(attempt)
            yield _trainers(EventKind.FIRST_STEP, row["time_unix_s"], row["global_step"], attempt)
    for checkpoint in run.checkpoints():
        with suppress(OSError):  # removed at this moment
            saved_unix_s = (checkpoint.path / MANIFEST).stat().st_mtime
            yield _trainers(EventKind.SAVED, saved_unix_s, checkpoint.manifest.global_step)


def metrics_rows(run: RunDir) -> list[dict[str, Any]]:
    """All rows that any attempt logged, in the order of their times; also superseded ones."""
    files = [*(attempt.superseded_metrics for attempt in run.attempts()), run.metrics]
    rows = []
    for file in files:
        for line in GrowingFile(file).new_lines():
            with suppress(ValueError):
                row = json.loads(line)
                if _is_row(row):
                    rows.append(row)
    return sorted(rows, key=lambda row: float(row.get("time_unix_s", 0.0)))


def _trainers(kind: EventKind, unix_s: float, step: int, attempt: int | None = None) -> Event:
    return Event(time_unix_s=unix_s, kind=kind, by="trainer", attempt=attempt, step=step)


def _append(path: Path, line: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        is_cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, f"{chr(10) * is_cut}{line}\n".encode())
    finally:
        os.close(descriptor)


def _parsed(lines: list[bytes]) -> Iterator[Event]:
    names = {field.name for field in fields(Event)}
    for line in lines:
        with suppress(ValueError, TypeError):
            values = json.loads(line)
            if _is_event(values):
                yield Event(**{name: value for name, value in values.items() if name in names})


def _is_row(row: Any) -> bool:
    """The values that rows are sorted and counted by can be what they stand for."""
    if not isinstance(row, dict) or whole(row, "global_step") is None:
        return False
    return "time_unix_s" not in row or number(row, "time_unix_s") is not None


def _is_event(values: Any) -> bool:
    """The same of events."""
    if not isinstance(values, dict) or number(values, "time_unix_s") is None:
        return False
    counts = (name for name in ("attempt", "step") if values.get(name) is not None)
    return isinstance(values.get("kind"), str) and all(
        whole(values, name) is not None for name in counts
    )
