"""Micro batches of decoded clips, read ahead; an unreadable clip never changes a batch's shape."""

import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from trainer.config import DataConfig
from trainer.data.batch_sampler import MicroBatch
from trainer.data.clip_workers import ClipAnswer, ClipTask, ClipWorkers, read_here
from trainer.data.dataset import ClipTable
from trainer.seeds import derive_seed


@dataclass(frozen=True)
class SkippedClip:
    """A clip that could not be read."""

    row: int
    path: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """A micro batch to train on; another clip of it stands in for one that could not be read."""

    video: Tensor  # float32 [B, 3, T, H, W] in [-1, 1]
    captions: list[str]
    fps: Tensor  # [B]
    num_frames: int
    height: int
    width: int
    rows: tuple[int, ...]  # the clips that are in it
    micro_batch: MicroBatch
    skipped: tuple[SkippedClip, ...]
    is_empty: bool  # no clip could be read: the video is all zeros and deserves no weight


@dataclass
class _Reading:
    micro_batch: MicroBatch
    answers: dict[int, ClipAnswer] = field(default_factory=dict)  # by row

    @property
    def is_complete(self) -> bool:
        return len(self.answers) == len(self.micro_batch.rows)


class ClipLoader:
    """Reads a rank's micro batches in order, `prefetch` of them ahead of training."""

    def __init__(self, clips: ClipTable, *, seed: int, settings: DataConfig) -> None:
        self._clips, self._seed, self._settings = clips, seed, settings
        self._workers = ClipWorkers(settings.workers, settings.stuck_after_s)
        self._unreadable: dict[int, str] = {}
        self._closing = threading.Event()
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def batches(self, epoch: int, micro_batches: Sequence[MicroBatch]) -> Iterator[Batch]:
        """The batches of an epoch, in order."""
        read = self._read_ahead if self._settings.workers else self._read_one_by_one
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(self._settings.prefetch)
        feed = (ready, read(epoch, micro_batches))
        self._reader = threading.Thread(target=self._fill, args=feed, daemon=True)
        self._reader.start()
        while (batch := ready.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield batch

    def close(self) -> None:
        """Stop reading and end the workers."""
        self._closing.set()
        if self._reader is not None:
            self._reader.join()
        self._workers.close()

    def _fill(
        self, ready: "queue.Queue[Batch | BaseException | None]", batches: Iterator[Batch]
    ) -> None:
        try:
            for batch in batches:
                self._put(ready, batch)
            self._put(ready, None)
        except BaseException as error:  # noqa: BLE001  (raised again where the batch is waited for)
            self._put(ready, error)

    def _put(
        self,
        ready: "queue.Queue[Batch | BaseException | None]",
        item: Batch | BaseException | None,
    ) -> None:
        while not self._closing.is_set():
            try:
                return ready.put(item, timeout=0.2)
            except queue.Full:
                continue
        raise SystemExit

    def _read_one_by_one(self, epoch: int, micro_batches: Sequence[MicroBatch]) -> Iterator[Batch]:
        for micro_batch in micro_batches:
            reading = _Reading(micro_batch)
            for row in micro_batch.rows:
                reading.answers[row] = self._known(row) or read_here(
                    self._task(epoch, micro_batch, row)
                )
            yield self._assemble(reading)

    def _read_ahead(self, epoch: int, micro_batches: Sequence[MicroBatch]) -> Iterator[Batch]:
        """Workers share clips, not batches: no batch waits for one worker to read all of it."""
        to_read, under_way = deque(micro_batches), deque[_Reading]()
        place: dict[int, tuple[_Reading, int]] = {}
        number = 0
        while to_read or under_way:
            while to_read and len(under_way) <= self._settings.prefetch:
                reading = _Reading(to_read.popleft())
                under_way.append(reading)
                for row in reading.micro_batch.rows:
                    if known := self._known(row):
                        reading.answers[row] = known
                    else:
                        place[number] = reading, row
                        self._workers.submit(number, self._task(epoch, reading.micro_batch, row))
                        number += 1
            while not under_way[0].is_complete:
                for done, answer in self._workers.answers():
                    reading, row = place.pop(done)
                    reading.answers[row] = answer
            yield self._assemble(under_way.popleft())

    def _known(self, row: int) -> ClipAnswer | None:
        """A clip that could not be read before is not tried again."""
        return ClipAnswer(fault=self._unreadable[row]) if row in self._unreadable else None

    def _task(self, epoch: int, micro_batch: MicroBatch, row: int) -> ClipTask:
        """A clip's window depends on the seed, the epoch and the clip alone."""
        bucket = micro_batch.bucket
        last = max(0, int(self._clips.num_frames[row]) - bucket.frames)
        start = derive_seed(self._seed, epoch, row, "window") % (last + 1)
        return ClipTask(self._clips.path(row), start, bucket.frames, (bucket.height, bucket.width))

    def _assemble(self, reading: _Reading) -> Batch:
        micro_batch, answers = reading.micro_batch, reading.answers
        rows, bucket = micro_batch.rows, micro_batch.bucket
        good = [row for row in rows if answers[row].clip is not None]
        skipped = tuple(
            SkippedClip(row, self._clips.path(row), answers[row].fault)
            for row in rows
            if answers[row].clip is None and row not in self._unreadable
        )
        self._unreadable |= {clip.row: clip.reason for clip in skipped}
        used = [
            row if answers[row].clip is not None else good[place % len(good)]
            for place, row in enumerate(rows)
            if good
        ]
        shape = (len(rows), 3, bucket.frames, bucket.height, bucket.width)
        clips = [clip for row in used if (clip := answers[row].clip) is not None]
        return Batch(
            video=torch.stack(clips) if good else torch.zeros(shape),
            captions=[self._clips.caption(row) for row in used] or [""] * len(rows),
            fps=torch.tensor([answers[row].fps for row in used or rows]),
            num_frames=bucket.frames,
            height=bucket.height,
            width=bucket.width,
            rows=tuple(used) or rows,
            micro_batch=micro_batch,
            skipped=skipped,
            is_empty=not good,
        )
