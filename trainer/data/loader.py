"""Micro batches of decoded clips, read ahead; an unreadable clip never changes a batch's shape."""

import itertools
import queue
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from trainer.config import DataConfig
from trainer.data.batch_sampler import MicroBatch
from trainer.data.buckets import window_start
from trainer.data.cached_features import CachedFeatures, CachedLatents
from trainer.data.clip_workers import (
    ClipAnswer,
    ClipTask,
    ClipWorkers,
    LatentsTask,
    Task,
    read_here,
)
from trainer.data.dataset import ClipTable

NOTHING_CACHED = CachedFeatures()


@dataclass(frozen=True)
class SkippedClip:
    """A clip that could not be read."""

    row: int
    path: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """A micro batch to train on; another clip of it stands in for one that could not be read."""

    video: Tensor  # float32 [B, 3, T, H, W] in [-1, 1]; cached, it is latents [B, 4, t, h, w]
    is_encoded: bool
    captions: list[str]
    caption_features: list[Tensor] | None  # [tokens, C] each, if they are cached
    fps: Tensor  # [B]
    num_frames: int
    height: int
    width: int
    rows: tuple[int, ...]  # the clips that are in it
    micro_batch: MicroBatch
    skipped: tuple[SkippedClip, ...]
    is_empty: bool  # no clip could be read: the video is all zeros and deserves no weight


class ClipLoader:
    """Reads a rank's micro batches in order, at most `prefetch` of them ahead of training."""

    def __init__(
        self,
        clips: ClipTable,
        *,
        seed: int,
        settings: DataConfig,
        features: CachedFeatures = NOTHING_CACHED,
    ) -> None:
        self._clips, self._seed, self._settings = clips, seed, settings
        self._features = features
        self._workers = ClipWorkers(settings.workers, settings.stuck_after_s)
        self._numbers = itertools.count()
        self._unreadable: dict[str, str] = {}  # reason by path
        self._ahead: _Ahead | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def leave_out(self, unreadable: Mapping[str, str]) -> None:
        """Do not try clips that could not be read elsewhere or before: a reason by path."""
        self._unreadable |= unreadable

    def batches(self, epoch: int, micro_batches: Sequence[MicroBatch]) -> Iterator[Batch]:
        """The batches of an epoch, in order; ends an earlier iteration that was left unfinished."""
        self._stop_reading()
        if self._settings.workers == 0:
            return (self._read_here(epoch, micro_batch) for micro_batch in micro_batches)
        self._ahead = ahead = _Ahead(self._settings.prefetch)
        return ahead.run(self._read_ahead(epoch, micro_batches, ahead))

    def close(self) -> None:
        """Stop reading and end the workers."""
        self._stop_reading()
        self._workers.close()

    def _stop_reading(self) -> None:
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None
        self._workers.forget()

    def _read_here(self, epoch: int, micro_batch: MicroBatch) -> Batch:
        reading = _Reading(micro_batch, self._features.latents)
        for place, row in enumerate(micro_batch.rows):
            known = self._known(epoch, row)
            reading.take(place, known or read_here(self._task(epoch, micro_batch, row)))
        return self._finish(reading)

    def _read_ahead(
        self, epoch: int, micro_batches: Sequence[MicroBatch], ahead: "_Ahead"
    ) -> Iterator[Batch]:
        """Workers share clips, not batches: no batch waits for one worker to read all of it."""
        to_read, under_way = deque(micro_batches), deque[_Reading]()
        place_of: dict[int, tuple[_Reading, int]] = {}
        while (to_read or under_way) and not ahead.is_over:
            while to_read and ahead.may_begin(wait=not under_way):
                reading = _Reading(to_read.popleft(), self._features.latents)
                under_way.append(reading)
                for place, row in enumerate(reading.micro_batch.rows):
                    if known := self._known(epoch, row):
                        reading.take(place, known)
                    else:
                        number = next(self._numbers)
                        place_of[number] = reading, place
                        self._workers.submit(number, self._task(epoch, reading.micro_batch, row))
            if under_way and under_way[0].missing == 0:
                yield self._finish(under_way.popleft())
            elif under_way:
                for number, answer in self._workers.answers():
                    if number in place_of:  # else an earlier iteration's, which was left unfinished
                        reading, place = place_of.pop(number)
                        reading.take(place, answer)

    def _known(self, epoch: int, row: int) -> ClipAnswer | None:
        """A clip that could not be read before, by whom ever, is not tried again."""
        fault = self._unreadable.get(self._clips.path_of(row))
        if fault is None and self._features.latents:
            fault = self._features.latents.fault_of(epoch, row)
        return None if fault is None else ClipAnswer(fault=fault)

    def _task(self, epoch: int, micro_batch: MicroBatch, row: int) -> Task:
        """A clip's window depends on the seed, the epoch and the clip alone."""
        if self._features.latents:
            return LatentsTask(*self._features.latents.place_of(epoch, row))
        bucket = micro_batch.bucket
        length = int(self._clips.num_frames[row])
        start = window_start(self._seed, epoch, row, length, bucket.frames)
        path = self._clips.path_of(row)
        return ClipTask(path, start, bucket.frames, bucket.height, bucket.width)

    def _finish(self, reading: "_Reading") -> Batch:
        micro_batch, bucket = reading.micro_batch, reading.micro_batch.bucket
        skipped = tuple(
            SkippedClip(row, self._clips.path_of(row), fault)
            for place, fault in sorted(reading.faults.items())
            if self._clips.path_of(row := micro_batch.rows[place]) not in self._unreadable
        )
        self._unreadable |= {clip.path: clip.reason for clip in skipped}
        is_empty = len(reading.faults) == len(micro_batch.rows)
        rows = micro_batch.rows if is_empty else reading.fill_gaps()
        return Batch(
            video=reading.video,
            is_encoded=self._features.latents is not None,
            captions=[""] * len(rows) if is_empty else self._clips.captions_of(rows),
            caption_features=self._features.captions_of(rows),
            fps=reading.fps,
            num_frames=bucket.frames,
            height=bucket.height,
            width=bucket.width,
            rows=rows,
            micro_batch=micro_batch,
            skipped=skipped,
            is_empty=is_empty,
        )


@dataclass
class _Reading:
    """A micro batch of which some clips are still to come."""

    micro_batch: MicroBatch
    cached: CachedLatents | None
    faults: dict[int, str] = field(default_factory=dict)  # by place in the batch

    def __post_init__(self) -> None:
        bucket, size = self.micro_batch.bucket, len(self.micro_batch.rows)
        self.missing = size
        self.video = (
            self.cached.zeros(bucket, size)
            if self.cached
            else torch.zeros(size, 3, bucket.frames, bucket.height, bucket.width)
        )
        self.fps = torch.zeros(size)

    def take(self, place: int, answer: ClipAnswer) -> None:
        """Put a clip, or why there is none, in its place."""
        self.missing -= 1
        if answer.clip is None:
            self.faults[place] = answer.fault
        else:
            self.video[place] = answer.clip
            self.fps[place] = answer.fps

    def fill_gaps(self) -> tuple[int, ...]:
        """Put the next good clip in each unreadable one's place; returns the rows that are in."""
        rows = list(self.micro_batch.rows)
        size = len(rows)
        for place in self.faults:
            after = ((place + step) % size for step in range(1, size))
            source = next(other for other in after if other not in self.faults)
            self.video[place] = self.video[source]
            self.fps[place] = self.fps[source]
            rows[place] = self.micro_batch.rows[source]
        return tuple(rows)


class _Ahead:
    """A thread that works through an iterator, at most `limit` items ahead of who takes them."""

    def __init__(self, limit: int) -> None:
        self._free = threading.Semaphore(limit)
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self.is_over = False

    def run(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The thread: draws the items that `batches` gives."""
        self._thread = threading.Thread(target=self._draw, args=(batches,), daemon=True)
        self._thread.start()
        return self._given()

    def may_begin(self, *, wait: bool) -> bool:
        """True if the thread may begin one more item."""
        return self._free.acquire(blocking=wait) and not self.is_over

    def stop(self) -> None:
        """End the thread; what it had read is lost."""
        self.is_over = True
        self._free.release()
        if self._thread is not None:
            self._thread.join()

    def _given(self) -> Iterator[Batch]:
        while not self.is_over and (item := self._ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            self._free.release()
            yield item

    def _draw(self, batches: Iterator[Batch]) -> None:
        try:
            for batch in batches:
                self._ready.put(batch)
        except Exception as error:  # noqa: BLE001  (raised again where the batch is waited for)
            self._ready.put(error)
        else:
            self._ready.put(None)
