"""Progress of a training: its heartbeat and the new lines of its metrics."""

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soractl.files.growing import GrowingFile
from soractl.runs.node_log import last_line
from soractl.terminal.text import duration
from trainer.atomic_files import RunDirError, read_json
from trainer.run_dir import RunDir

RECENT_STEPS = 20  # whose mean says how long a step takes
STALLED_STEPS = 3  # without a new one: then the run counts as stalled
MOST = 10.0**11  # steps, bytes a second; seconds since 1970 until the year 5138
BETWEEN_S = 10.0  # at most, from a node's answer to the reading of its heartbeat
STALLED_LEAST_S = 20.0  # a save or a validation may take as long


@dataclass(frozen=True)
class Progress:
    """Progress of an attempt; None = not known, or nothing yet."""

    elapsed_s: float | None = None
    global_step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    first_loss: float | None = None  # of the whole run
    s_per_step: float | None = None
    clips_per_s: float | None = None
    heartbeat_age_s: float | None = None  # by one clock alone
    slowest_rank: int | None = None  # of the last logged steps, where there are several ranks
    slowest_s: float | None = None  # of its own a step, without waiting for others
    mean_s: float | None = None  # the same of all ranks
    log_line: str = ""  # the newest of the head node, while there is no step yet

    @property
    def done(self) -> int | None:
        """For a display: the step."""
        return self.global_step

    @property
    def total(self) -> int | None:
        """For a display: the number of steps."""
        return self.total_steps

    @property
    def news(self) -> str:
        """A new step, or none for long; before the first one a line of the log; never the time."""
        if self.global_step is None:
            return self.log_line
        return f"step {self.global_step}{' stalled' if self.is_stalled else ''}"

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last step."""
        if self.global_step is None or self.total_steps is None or self.s_per_step is None:
            return None
        return max(0, self.total_steps - self.global_step) * self.s_per_step

    @property
    def is_stalled(self) -> bool:
        """No step for much longer than one takes."""
        age_s, usual_s = self.heartbeat_age_s, self.s_per_step
        limit_s = max(STALLED_LEAST_S, STALLED_STEPS * (usual_s or 0))
        return age_s is not None and usual_s is not None and age_s > limit_s

    @property
    def stall(self) -> str:
        """`no step for 64 s, usual 4 s`."""
        return (
            f"no step for {duration(self.heartbeat_age_s or 0)}, usual {self.s_per_step or 0:.3g} s"
        )

    def one_line(self, *, running: bool = True) -> str:
        """`step 120/4000  loss 0.1234  3.21 s/step  12.4 clips/s  ETA 3 h 27 min`."""
        if self.global_step is None:
            since = f" ({duration(self.elapsed_s)})" if self.elapsed_s is not None else ""
            return f"starting{since}  {self.log_line}".rstrip()
        total = f"/{self.total_steps}" if self.total_steps else ""
        parts = [f"step {self.global_step}{total}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.s_per_step is not None:
            parts.append(f"{self.s_per_step:.3g} s/step")
        if self.clips_per_s is not None:
            parts.append(f"{self.clips_per_s:.3g} clips/s")
        if running and self.is_stalled:
            parts.append(self.stall)
        elif running and self.eta_s:
            parts.append(f"ETA {duration(self.eta_s)}")
        return "  ".join(parts)


class ProgressReader:
    """Reads what an attempt adds to its run's files, from now on.

    Times of two machines are never compared: rows and heartbeats carry the number of their
    attempt, and the age of a step is either seen by this machine's clock (`follow`) or reckoned
    by the head node's clock alone (`look`).
    """

    def __init__(
        self, run: RunDir, log: Path, attempt: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run = run
        self._log = log
        self._attempt = attempt
        self._clock = clock
        self._began_s = clock()
        self._step_seen_s = self._began_s
        self._beat: dict[str, Any] = {}
        self._metrics = GrowingFile(run.metrics)  # a resumed run writes it anew, and shorter
        self._first_loss: float | None = None
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT_STEPS)

    def follow(self) -> Progress:
        """Progress now, for one who looks again and again; ages by this machine's clock."""
        former = self._beat
        self._read()
        now_s = self._clock()
        if self._beat != former:
            self._step_seen_s = now_s
        age_s = now_s - self._step_seen_s if self._beat else None
        return self._progress(now_s - self._began_s, age_s)

    def look(self, head_unix_s: float | None, elapsed_s: float | None) -> Progress:
        """Progress now, for one look; `head_unix_s`: the head node's clock, if it answered."""
        self._read()
        return self._progress(elapsed_s, self._age_s(head_unix_s, elapsed_s))

    def _age_s(self, head_unix_s: float | None, elapsed_s: float | None) -> float | None:
        """Age of the last step by the head node's clock; None if that was put right since."""
        beat_unix_s = self._beat.get("time_unix_s")
        if head_unix_s is None or beat_unix_s is None:
            return None
        age_s = float(head_unix_s - beat_unix_s)
        is_older = elapsed_s is not None and age_s > elapsed_s + BETWEEN_S
        return None if age_s < -BETWEEN_S or is_older else max(0.0, age_s)

    def _progress(self, elapsed_s: float | None, age_s: float | None) -> Progress:
        newest = self._recent[-1] if self._recent else {}
        times = [row["s_per_step"] for row in self._recent if number(row, "s_per_step")]
        step = self._beat.get("global_step", newest.get("global_step"))
        return Progress(
            elapsed_s=elapsed_s,
            global_step=step,
            total_steps=self._beat.get("total_steps"),
            loss=_loss(newest),
            first_loss=self._first_loss,
            s_per_step=sum(times) / len(times) if times else None,
            clips_per_s=number(newest, "clips_per_s"),
            heartbeat_age_s=age_s,
            slowest_rank=whole(newest, "ranks/slowest"),
            slowest_s=number(newest, "ranks/slowest_s"),
            mean_s=number(newest, "ranks/mean_s"),
            log_line="" if step is not None else last_line(self._log),
        )

    def _read(self) -> None:
        for line in self._metrics.new_lines():
            try:
                row = json.loads(line)
                step = whole(row, "global_step")
            except (ValueError, AttributeError):  # damaged, as by a power cut
                continue
            if step is None:
                continue
            if self._first_loss is None:
                self._first_loss = _loss(row)
            if not self._is_mine(row):
                continue
            if self._recent and step < self._recent[-1]["global_step"]:
                self._recent.clear()  # written by an attempt that went on from before
            self._recent.append(row)
        try:
            beat = read_json(self._run.heartbeat)
        except (OSError, RunDirError):  # not there, or not to be read just now: the next look may
            return
        if self._is_mine(beat) and whole(beat, "global_step") is not None:
            times = {"total_steps": whole(beat, "total_steps")}
            self._beat = {**beat, **times, "time_unix_s": number(beat, "time_unix_s")}

    def _is_mine(self, values: dict[str, Any]) -> bool:
        """Written by this attempt; the trainer of version 0.1 does not say by which."""
        return bool(values.get("attempt", self._attempt) == self._attempt)


def number(values: Mapping[str, Any], name: str) -> float | None:
    """A value that can be a measurement; None for what cannot."""
    found = values.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return found if abs(found) < MOST else None


def whole(values: Mapping[str, Any], name: str) -> int | None:
    """A value that can be a count; None for what cannot."""
    found = values.get(name)
    if isinstance(found, bool) or not isinstance(found, int):
        return None
    return found if 0 <= found < MOST else None


def _loss(row: dict[str, Any]) -> float | None:
    """The loss of a row; training that diverges has NaN."""
    found = row.get("loss")
    return found if isinstance(found, float) else number(row, "loss")
