"""Publishing an evaluated checkpoint: its result, alarms to events and people, the gallery."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from soractl.cluster.notify import Notifier
from soractl.evaluation.alarms import Alarm, find_alarms
from soractl.evaluation.find_new import Item
from soractl.evaluation.outside_metrics import OutsideMetrics
from soractl.evaluation.results import Video, result_of, video_of
from soractl.gallery.contents import write_gallery
from soractl.runs.events import EventKind, EventLog
from trainer.atomic_files import write_json
from trainer.checkpoint_dir import DRAFT
from trainer.run_dir import RunDir

RENEW_S = 10.0  # between two galleries while a checkpoint's videos are being made

Task = Mapping[str, Any]


class Origin(Protocol):
    """Source of the watched runs."""

    @property
    def runs(self) -> tuple[RunDir, ...]:
        """The runs in folders here."""

    @property
    def ready(self) -> tuple[RunDir, ...]:
        """Those whose checkpoints may be sampled now."""

    def show(self, run: RunDir) -> None:
        """Let others see a run's videos so far; it does not wait for them."""


@dataclass(frozen=True)
class Published:
    """Result of publishing: alarms, and what others do not get to see."""

    alarms: tuple[Alarm, ...] = ()
    faults: tuple[str, ...] = ()  # the videos count all the same


class Publisher:
    """Writes what others see of checkpoints of some runs."""

    def __init__(
        self,
        origin: Origin,
        weights: str,
        outside: OutsideMetrics | None = None,
        notifier: Notifier | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origin, self._weights = origin, weights
        self._outside, self._notifier, self._clock = outside, notifier, clock
        self._lock = threading.Lock()  # several samplers end videos
        self._renewed_s: float | None = None
        self._is_behind = True  # whoever was killed may have left a gallery without its result

    def begin(self, item: Item) -> None:
        """A checkpoint's turn: what an older save of its step left is no result of this one."""
        item.result.unlink(missing_ok=True)
        self._renewed_s = None

    def show(self, item: Item, tasks: Sequence[Task]) -> None:
        """Show the videos that are there so far: the first at once, more every ten seconds."""
        with self._lock:
            now_s = self._clock()
            if self._renewed_s is not None and now_s - self._renewed_s < RENEW_S:
                return
            self._renewed_s = now_s
            with suppress(OSError):  # the result says it, and once
                so_far = result_of(item, _videos(tasks), weights=self._weights, is_whole=False)
                write_json(item.progress, so_far)
                self._write_galleries()
                self._origin.show(item.run)

    def publish(self, item: Item, tasks: Sequence[Task]) -> Published:
        """The result, which makes the videos count, then what others are to see of it."""
        videos = _videos(tasks)
        alarms = tuple(find_alarms(videos))  # of our measures alone
        metrics: dict[str, Any] = {}
        faults: list[str] = []
        if self._outside:
            measured = self._outside.measure(item, self._weights, videos)
            videos, metrics = measured.videos, measured.metrics
            faults += measured.faults
        result = result_of(item, videos, weights=self._weights, alarms=alarms, metrics=metrics)
        write_json(item.result, result)
        self._is_behind = True
        item.progress.unlink(missing_ok=True)
        self._warn(item, alarms)
        try:
            self._write_galleries()
        except OSError as error:
            faults.append(f"no gallery: {error}")
        for draft in item.folder.glob(f"{DRAFT}*"):  # of a process that was killed
            draft.unlink(missing_ok=True)
        return Published(alarms, tuple(faults))

    def settle(self) -> None:
        """Write the galleries once more after the last result.

        Another server may have written what it read before, or been killed before it wrote.
        """
        if self._is_behind and any(run.evaluation_results() for run in self._origin.runs):
            with suppress(OSError):
                self._write_galleries()
                self._is_behind = False

    def _warn(self, item: Item, alarms: Sequence[Alarm]) -> None:
        step = item.checkpoint.manifest.global_step
        for alarm in alarms:
            text = f"{alarm} ({item.preset})"
            EventLog(item.run, "eval").write(EventKind.ALARM, step=step, text=text)
            if self._notifier:
                kind = f"{EventKind.ALARM} {alarm.kind} {item.run.name}"
                for thread in self._notifier.tell(kind, f"{item.run.name} step {step}: {text}"):
                    thread.join()  # it has a limit of its own, and `--once` ends soon

    def _write_galleries(self) -> None:
        runs = self._origin.runs
        for run in runs:  # each run's page shows the others beside it
            write_gallery([run, *(other for other in runs if other != run)])


def _videos(tasks: Sequence[Task]) -> list[Video]:
    return [video_of(task) for task in tasks]
