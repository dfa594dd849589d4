"""How far a training is: its heartbeat and the new lines of its metrics."""

import json
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soractl.runs.node_log import last_line
from soractl.terminal.text import duration
from trainer.atomic_files import read_json
from trainer.run_dir import RunDir

RECENT_STEPS = 20  # whose mean says how long a step takes


@dataclass(frozen=True)
class Progress:
    """What a look at the run's files says; None = nothing yet."""

    elapsed_s: float
    global_step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    first_loss: float | None = None  # of the whole run
    s_per_step: float | None = None
    clips_per_s: float | None = None
    heartbeat_age_s: float | None = None
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
        """A new step, or before the first one a new line of the log; not that time passes."""
        return self.log_line if self.global_step is None else f"step {self.global_step}"

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last step."""
        if self.global_step is None or self.total_steps is None or self.s_per_step is None:
            return None
        return max(0, self.total_steps - self.global_step) * self.s_per_step

    def one_line(self, *, running: bool = True) -> str:
        """`step 120/4000  loss 0.1234  3.21 s/step  12.4 clips/s  ETA 3 h 27 min`."""
        if self.global_step is None:
            return f"starting ({duration(self.elapsed_s)})  {self.log_line}".rstrip()
        total = f"/{self.total_steps}" if self.total_steps else ""
        parts = [f"step {self.global_step}{total}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.s_per_step is not None:
            parts.append(f"{self.s_per_step:.3g} s/step")
        if self.clips_per_s is not None:
            parts.append(f"{self.clips_per_s:.3g} clips/s")
        if running and self.eta_s:
            parts.append(f"ETA {duration(self.eta_s)}")
        return "  ".join(parts)


class ProgressReader:
    """Reads what an attempt adds to its run's files, from now on."""

    def __init__(self, run: RunDir, log: Path, started_unix_s: float) -> None:
        self._run = run
        self._log = log
        self._started = started_unix_s
        self._offset = 0
        self._file_number: int | None = None
        self._first_loss: float | None = None
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT_STEPS)

    def read(self, now_unix_s: float) -> Progress:
        """How far it is now."""
        self._read_metrics()
        beat = self._heartbeat()
        newest = self._recent[-1] if self._recent else {}
        times = [row["s_per_step"] for row in self._recent if row.get("s_per_step")]
        step = beat.get("global_step", newest.get("global_step"))
        return Progress(
            elapsed_s=now_unix_s - self._started,
            global_step=step,
            total_steps=beat.get("total_steps"),
            loss=newest.get("loss"),
            first_loss=self._first_loss,
            s_per_step=sum(times) / len(times) if times else None,
            clips_per_s=newest.get("clips_per_s"),
            heartbeat_age_s=now_unix_s - beat["time_unix_s"] if beat else None,
            log_line="" if step is not None else last_line(self._log),
        )

    def _read_metrics(self) -> None:
        try:
            with self._run.metrics.open("rb") as file:
                file_number = os.fstat(file.fileno()).st_ino
                if file_number != self._file_number:  # a resumed run writes it anew, and shorter
                    self._file_number, self._offset = file_number, 0
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return
        whole, newline, _ = new.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        rows = [json.loads(line) for line in whole.splitlines()]
        if rows and self._first_loss is None:
            self._first_loss = rows[0].get("loss")
        self._recent += [row for row in rows if row["time_unix_s"] >= self._started]

    def _heartbeat(self) -> dict[str, Any]:
        try:
            beat = read_json(self._run.heartbeat)
        except FileNotFoundError:
            return {}
        return beat if beat["time_unix_s"] >= self._started else {}
