"""Account of a run's time: every second since its launch belongs to one part; they add up.

The words are the field's: ETTR is the share of wall time in steps that count (Kokolis et al.,
"Revisiting Reliability in Large-Scale Machine Learning Research Clusters", 2410.21680); MTTI and
MTTR are the mean times to an interruption and from the last step before it to the first after it;
RPO is what was trained again. Boundaries are put in order where two machines' clocks differ.
"""

import statistics
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any

from soractl.diagnosis.case_file import read_case
from soractl.diagnosis.signatures import CauseKind
from soractl.diagnosis.why import explain
from soractl.runs.events import Event, EventKind, all_events, metrics_rows
from soractl.runs.post_mortem import Failure, Outcome, read_outcome
from soractl.runs.progress import number
from soractl.runs.record import read_record, start_step
from trainer.atomic_files import RunDirError, read_json
from trainer.run_dir import AttemptDir, RunDir


class Part(StrEnum):
    """Parts of a run's time."""

    TRAINING = "training"
    FIRST_STEP = "first step"
    SAVING = "saves"  # by how much steps after a save take longer than usual
    LOST = "lost steps"  # trained again by a later attempt
    DETECTING = "detecting"  # from the last step to the verdict
    EVIDENCE = "evidence"
    KILLING = "killing"
    STARTING = "starting"
    WAITING = "waiting"  # nobody had started the next attempt
    ENDING = "ending"  # after the last step of a run that ended well


@dataclass(frozen=True)
class Segment:
    """A stretch of time that belongs to one part."""

    part: Part
    begin_unix_s: float
    end_unix_s: float
    attempt: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end_unix_s - self.begin_unix_s


@dataclass(frozen=True)
class Interruption:
    """An attempt that ended before the run did."""

    attempt: int
    unix_s: float  # of the last step
    state: str  # hung, crashed, lost, stopped
    cause: str  # its kind, such as hardware
    text: str
    node: str | None
    step: int | None
    lost_steps: int
    lost_s: float
    detected_s: float
    repaired_s: float | None  # from the last step to the first of the next attempt
    name: str = ""  # of the cause, as `why` has it; nothing where it is not known


@dataclass(frozen=True)
class CauseRow:
    """Interruptions of one cause, and the wall time that they cost."""

    name: str
    kind: str
    count: int
    share: float  # of all interruptions
    lost_s: float  # until the run had the step again at which it was interrupted


@dataclass(frozen=True, kw_only=True)
class Account:
    """A run's time by parts, and its interruptions."""

    run: str
    begin_unix_s: float
    end_unix_s: float
    segments: tuple[Segment, ...]
    interruptions: tuple[Interruption, ...]
    gpus: Mapping[int, int]  # ranks, by attempt
    rows: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)  # of metrics.jsonl
    collective_timeout_s: float = 600.0
    price_per_gpu_hour: float | None = None
    energy_kwh: float | None = None  # of the GPUs, where their power was recorded
    energy_known: float = 1.0  # the share of the time in which it was
    energy_cost: float | None = None

    @property
    def wall_s(self) -> float:
        """From the launch to the end, or until now."""
        return self.end_unix_s - self.begin_unix_s

    @property
    def seconds(self) -> dict[Part, float]:
        """Seconds by part; together they are the wall time."""
        sums = dict.fromkeys(Part, 0.0)
        for segment in self.segments:
            sums[segment.part] += segment.seconds
        return sums

    @property
    def ettr(self) -> float:
        """Share of the wall time in steps that count."""
        return self.seconds[Part.TRAINING] / self.wall_s if self.wall_s else 0.0

    @property
    def mtti_s(self) -> float | None:
        """Mean time to an interruption."""
        return self.wall_s / len(self.interruptions) if self.interruptions else None

    @property
    def mttr_s(self) -> float | None:
        """Mean time to repair."""
        return _mean(one.repaired_s for one in self.interruptions if one.repaired_s is not None)

    @property
    def rpo_s(self) -> float | None:
        """Mean time whose steps were trained again."""
        return _mean(one.lost_s for one in self.interruptions)

    @property
    def restarts(self) -> int:
        """Attempts after the first."""
        return len(self.gpus) - 1

    @property
    def gpu_hours(self) -> float:
        """Of all ranks, whatever they did."""
        return sum(one.seconds * self.gpus[one.attempt] for one in self.segments) / 3600

    @property
    def timeout_alone_s(self) -> float:
        """Seconds longer that hangs and silent nodes would have taken to end by the timeout."""
        waits = (one for one in self.interruptions if one.state in ("hung", "lost"))
        return sum(max(0.0, self.collective_timeout_s - one.detected_s) for one in waits)

    @property
    def causes(self) -> tuple[CauseRow, ...]:
        """Interruptions by cause, the most frequent first, as in The Llama 3 Herd of Models,
        2407.21783, table 5.
        """
        groups: dict[tuple[str, str], list[Interruption]] = {}
        for one in self.interruptions:
            groups.setdefault((one.name or "not known", one.cause), []).append(one)
        rows = [
            CauseRow(
                *(name, kind, len(ones), len(ones) / len(self.interruptions)),
                lost_s=sum((one.repaired_s or one.detected_s) + one.lost_s for one in ones),
            )
            for (name, kind), ones in groups.items()
        ]
        return tuple(sorted(rows, key=lambda row: (-row.count, -row.lost_s)))

    def cost(self, gpu_hours: float) -> float | None:
        """In the currency of `price_per_gpu_hour`."""
        price = self.price_per_gpu_hour
        return None if price is None else gpu_hours * price


def account(run: RunDir, price_per_gpu_hour: float | None = None) -> Account | None:
    """The account of a run; None if it never started.

    An attempt whose plan is damaged takes no part: its time is that of the one before.
    """
    known = [(attempt, _begin_of(attempt)) for attempt in run.attempts()]
    begun = [(attempt, begin) for attempt, begin in known if begin is not None]
    if not begun:
        return None
    attempts, begins = [attempt for attempt, _ in begun], [begin for _, begin in begun]
    rows = metrics_rows(run)
    events = all_events(run, rows)
    segments: list[Segment] = []
    interruptions = []
    for i, attempt in enumerate(attempts):
        following = begun[i + 1] if i + 1 < len(begun) else None
        story = _Story(
            attempt,
            [row for row in rows if row.get("attempt") == attempt.number],
            [event for event in events if event.attempt == attempt.number],
            begin=max(begins[i], segments[-1].end_unix_s if segments else begins[i]),
            following=following,
        )
        parts = story.segments()
        segments += parts
        if found := story.interruption(run, parts):
            interruptions.append(found)
    return Account(
        run=run.name,
        begin_unix_s=begins[0],
        end_unix_s=segments[-1].end_unix_s if segments else begins[0],
        segments=tuple(segments),
        interruptions=tuple(_repaired(interruptions, segments)),
        gpus={attempt.number: _ranks(attempt) for attempt in attempts},
        rows=tuple(rows),
        collective_timeout_s=_timeout_s(attempts[-1]),
        price_per_gpu_hour=price_per_gpu_hour,
    )


def _ranks(attempt: AttemptDir) -> int:
    """Of an attempt; 0 where its plan does not say."""
    with suppress(OSError, RunDirError, KeyError, TypeError, ValueError):
        return int(read_json(attempt.plan)["world_size"])
    return 0


class _Story:
    """One attempt's time, cut at its steps and events."""

    def __init__(
        self,
        attempt: AttemptDir,
        rows: Sequence[Mapping[str, Any]],
        events: Sequence[Event],
        *,
        begin: float,
        following: tuple[AttemptDir, float] | None,
    ) -> None:
        self._attempt, self._events = attempt, events
        self._rows = [row for row in rows if "time_unix_s" in row]
        self._begin = begin
        self._end = following[1] if following else None
        self._kept = _start_step(following[0]) if following else None
        self._outcome: Outcome | None = read_outcome(attempt)

    def segments(self) -> list[Segment]:
        """Its parts in order, without gaps, from its begin to the next attempt's."""
        found: list[Segment] = []
        at = self._begin
        last = self._last()
        for part, until in self._cuts():
            until = min(max(at, until), last)
            if until > at and found and found[-1].part is part:
                found[-1] = replace(found[-1], end_unix_s=until)
            elif until > at:
                found.append(Segment(part, at, until, self._attempt.number))
            at = until
        return found

    def interruption(self, run: RunDir, parts: Sequence[Segment]) -> Interruption | None:
        """Reason of its end before the run's, if it ended so."""
        verdict = self._event(EventKind.HUNG, EventKind.CRASHED, EventKind.LOST)
        failure = self._outcome.first_failure if self._outcome else None
        if failure is None and verdict is None:
            return None
        lost = [row for row in self._rows if self._is_lost(row)]
        of_part = {part: sum(s.seconds for s in parts if s.part is part) for part in Part}
        is_stop = bool(failure and failure.stopped)
        kind, name = _cause(run, self._attempt, failure)
        state = "stopped" if is_stop else str(verdict.kind if verdict else EventKind.CRASHED)
        return Interruption(
            attempt=self._attempt.number,
            unix_s=self._last_step(),
            state=state,
            cause=kind,
            name=name,
            text=failure.error if failure else (verdict.text if verdict else ""),
            node=failure.node if failure else None,
            step=self._rows[-1]["global_step"] if self._rows else None,
            lost_steps=len({row["global_step"] for row in lost}),
            lost_s=of_part[Part.LOST],
            detected_s=of_part[Part.DETECTING],
            repaired_s=None,
        )

    def _cuts(self) -> Iterator[tuple[Part, float]]:
        """Parts and the moments at which they end."""
        rows = self._rows
        if rows:
            first = float(rows[0]["time_unix_s"])
            yield Part.STARTING, first - (number(rows[0], "s_per_step") or 0.0)
            yield Part.FIRST_STEP, first
            yield from self._steps()
        verdict = self._event(EventKind.HUNG, EventKind.CRASHED, EventKind.LOST)
        if verdict or (self._outcome and self._outcome.first_failure):
            ended = self._outcome.ended_unix_s if self._outcome else self._last()
            waits = Part.DETECTING if rows else Part.STARTING
            yield waits, verdict.time_unix_s if verdict else ended
            if evidence := self._event(EventKind.EVIDENCE):
                yield Part.EVIDENCE, evidence.time_unix_s
            killed = self._event(EventKind.KILLED)
            yield Part.KILLING, killed.time_unix_s if killed else ended
            yield Part.WAITING, self._last()
        else:
            yield (Part.ENDING if rows else Part.STARTING), self._last()

    def _steps(self) -> Iterator[tuple[Part, float]]:
        usual_s = _usual_s(self._rows)
        saves = sorted(event.step or -1 for event in self._events if event.kind in _SAVES)
        for before, row in pairwise(self._rows):
            begin, end = float(before["time_unix_s"]), float(row["time_unix_s"])
            steps = row["global_step"] - before["global_step"]
            extra_s = end - begin - usual_s * steps
            first, last = (bisect_left(saves, r["global_step"]) for r in (before, row))
            if self._is_lost(row):
                yield Part.LOST, end
                continue
            if first < last and extra_s > 0:  # a save began between them
                yield Part.SAVING, begin + extra_s
            yield Part.TRAINING, end

    def _is_lost(self, row: Mapping[str, Any]) -> bool:
        return self._kept is not None and row["global_step"] > self._kept

    def _last_step(self) -> float:
        return float(self._rows[-1]["time_unix_s"]) if self._rows else self._begin

    def _last(self) -> float:
        """The end of its time: the next attempt's begin, its own end, or its last sign."""
        if self._end is not None:
            return self._end
        if self._outcome:
            return max(self._outcome.ended_unix_s, self._begin)
        return max([self._last_step(), *(e.time_unix_s for e in self._events), self._begin])

    def _event(self, *kinds: EventKind) -> Event | None:
        found = [e for e in self._events if e.kind in kinds and e.by in WATCHERS]
        return found[0] if found else None


_SAVES = (EventKind.SAVE_BEGUN, EventKind.SAVED)
WATCHERS = ("supervisor", "follow", "slurm")  # who write verdicts


def _usual_s(rows: Sequence[Mapping[str, Any]]) -> float:
    times = (number(row, "s_per_step") for row in rows[1:])
    known = [time_s for time_s in times if time_s]
    return statistics.median(known) if known else 0.0


def _repaired(
    interruptions: Sequence[Interruption], segments: Sequence[Segment]
) -> Iterator[Interruption]:
    """With the time until the next attempt's first step had ended."""
    for one in interruptions:
        later = [s for s in segments if s.attempt > one.attempt and s.part is Part.FIRST_STEP]
        repaired_s = later[0].end_unix_s - one.unix_s if later else None
        yield Interruption(**{**vars(one), "repaired_s": repaired_s})


def _timeout_s(attempt: AttemptDir) -> float:
    try:
        return float(read_json(attempt.config_json)["trainer"]["collective_timeout_s"])
    except (OSError, RunDirError, KeyError, TypeError, ValueError):
        return 600.0


def _mean(values: Iterator[float]) -> float | None:
    known = list(values)
    return sum(known) / len(known) if known else None


def _cause(run: RunDir, attempt: AttemptDir, failure: Failure | None) -> tuple[str, str]:
    """Kind and name: as the supervisor decided, else by what is on disk."""
    try:
        cause = read_json(attempt.decision)["cause"]
        return str(cause["kind"]), str(cause.get("name", ""))
    except (OSError, RunDirError, KeyError, TypeError, ValueError):
        pass
    try:
        case = read_case(run, attempt, read_record(attempt), failure)
    except (OSError, RunDirError, KeyError, TypeError, ValueError):
        return CauseKind.OPERATOR if failure and failure.stopped else CauseKind.UNKNOWN, ""
    found = explain(case)
    return str(found.kind), found.cause if found.root else ""


def _begin_of(attempt: AttemptDir) -> float | None:
    """Of an attempt; None where its plan is missing or does not say."""
    with suppress(OSError, RunDirError):
        begin = number(read_json(attempt.plan), "started_unix_s")
        return begin if begin is not None and begin >= 0 else None
    return None


def _start_step(attempt: AttemptDir) -> int | None:
    with suppress(OSError, RunDirError):
        return start_step(attempt)
    return None
