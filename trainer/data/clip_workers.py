"""Processes that decode one clip at a time; one that hangs or dies is replaced."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.data.decode import DecodeError, read_frames
from trainer.data.features import FeatureError, read_latents

_START_S = 300.0  # a process may take this long to load its libraries from a busy file server
_LOOK_UP_S = 0.5  # whoever waits for answers may be asked to stop
_REAP_TIMEOUT_S = 5.0  # a process that waits for a dead file server may not end at all


class ClipTask(NamedTuple):
    """Frames of a file to decode."""

    path: str
    start: int
    frames: int
    height: int
    width: int

    def read(self) -> tuple[Tensor, float]:
        """float32 [3, T, H, W] in [-1, 1], and frames per second."""
        return read_frames(*self)


class LatentsTask(NamedTuple):
    """Cached latents to read."""

    shard: Path
    row: int

    def read(self) -> tuple[Tensor, float]:
        """[4, t, h, w], and the frames per second of the clip."""
        return read_latents(*self)


Task = ClipTask | LatentsTask


class ClipAnswer(NamedTuple):
    """The result of a request: a clip, or the reason why there is none."""

    clip: Tensor | None = None  # as the task says
    fps: float = 0.0
    fault: str = ""


def read_here(task: Task) -> ClipAnswer:
    """Read a clip in this process."""
    try:
        return ClipAnswer(*task.read())
    except DecodeError as error:
        return ClipAnswer(fault=error.reason)
    except FeatureError as error:
        return ClipAnswer(fault=str(error))


class ClipWorkers:
    """A fixed number of worker processes, started when they are first needed."""

    def __init__(self, count: int, stuck_after_s: float) -> None:
        self._workers = [_Worker(stuck_after_s) for _ in range(count)]
        self._waiting: deque[tuple[int, Task]] = deque()

    def submit(self, number: int, task: Task) -> None:
        """Read a clip when a worker is free; its answer will carry `number`."""
        self._waiting.append((number, task))
        self._assign_next()

    def answers(self) -> Iterator[tuple[int, ClipAnswer]]:
        """The clips that were read, or given up, since the last call; waits a moment for one."""
        busy = [worker for worker in self._workers if worker.number is not None]
        patience = min([_LOOK_UP_S, *(worker.seconds_left() for worker in busy)])
        ready = wait([worker.connection for worker in busy], patience)
        for worker in busy:
            number = worker.number
            answer = worker.answer(worker.connection in ready)
            if number is not None and answer is not None:
                yield number, answer
        self._assign_next()

    def forget(self) -> None:
        """Drop what no worker has begun; what they are at will still be answered."""
        self._waiting.clear()

    def close(self) -> None:
        """End all processes."""
        self.forget()
        for worker in self._workers:
            worker.stop()

    def _assign_next(self) -> None:
        for worker in self._workers:
            if worker.number is None and self._waiting:
                worker.begin(*self._waiting.popleft())


class _Worker:
    def __init__(self, stuck_after_s: float) -> None:
        self._stuck_after_s = stuck_after_s
        self._process: Any = None
        self._lifeline: Connection  # closes with this process, which ends the worker
        self._deadline = 0.0
        self._is_loaded = False
        self.connection: Connection
        self.number: int | None = None  # of the clip that is being read

    def begin(self, number: int, task: Task) -> None:
        if self._process is None or not self._process.is_alive():
            self.stop()
            self._start()
        self.number = number
        self._deadline = time.monotonic() + (self._stuck_after_s if self._is_loaded else _START_S)
        with contextlib.suppress(OSError):  # it has just died: `answer` sees it
            self.connection.send(task)

    def seconds_left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def answer(self, is_ready: bool) -> ClipAnswer | None:
        """The clip, or why there will be none; None if it is still being read."""
        if not is_ready and self.seconds_left() > 0:
            return None
        fault = f"no answer within {self._stuck_after_s if self._is_loaded else _START_S:g} s"
        if is_ready:
            try:
                return self._take(self.connection.recv())
            except (EOFError, OSError):
                self._process.join(1)
                fault = f"its reader died with exit code {self._process.exitcode}"
        if not self._is_loaded:
            raise RuntimeError(f"a process that reads clips does not start: {fault}")
        self.number = None
        self.stop()
        return ClipAnswer(fault=fault)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join(_REAP_TIMEOUT_S)
            if self._process.exitcode is not None:
                self._process.close()
            self._process = None
            self.connection.close()
            self._lifeline.close()
        self.number = None

    def _take(self, message: Any) -> ClipAnswer | None:
        if not self._is_loaded:
            self._is_loaded = True  # its first word; only now it turns to the clip
            self._deadline = time.monotonic() + self._stuck_after_s
            return None
        fps, fault, form = message
        clip = None if form is None else _receive(self.connection, *form)
        self.number = None
        return ClipAnswer(clip, fps, fault)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # this process has threads: never fork
        self.connection, theirs = context.Pipe()
        lifeline, self._lifeline = context.Pipe(duplex=False)
        self._is_loaded = False
        self._process = context.Process(target=_serve, args=(theirs, lifeline), daemon=True)
        self._process.start()
        theirs.close()
        lifeline.close()


def _serve(connection: Connection, lifeline: Connection) -> None:
    """A worker's life: read what is asked for until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    torch.set_num_threads(1)
    threading.Thread(target=end_with, args=(lifeline,), daemon=True).start()
    connection.send(None)
    with contextlib.suppress(EOFError, OSError):
        while True:
            answer = read_here(connection.recv())
            clip = answer.clip
            form = None if clip is None else (clip.shape, clip.dtype)
            connection.send((answer.fps, answer.fault, form))
            if clip is not None:
                _send(connection, clip.contiguous())


def _send(connection: Connection, clip: Tensor) -> None:
    """A clip's bytes as they are: no copy, no shared memory that a container may lack."""
    left = _bytes_of(clip)
    while left:
        left = left[os.write(connection.fileno(), left) :]


def _receive(connection: Connection, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    clip = torch.empty(shape, dtype=dtype)
    left = _bytes_of(clip)
    while left:
        count = os.readv(connection.fileno(), [left])
        if count == 0:
            raise EOFError
        left = left[count:]
    return clip


def _bytes_of(clip: Tensor) -> memoryview:
    return memoryview(clip.view(torch.uint8).numpy()).cast("B")


def end_with(lifeline: Connection) -> None:
    """End this process when the one at the other end is gone; runs in a thread of its own."""
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv()
    os._exit(0)  # whatever the main thread is stuck in
