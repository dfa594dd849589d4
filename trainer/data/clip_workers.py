"""Processes that decode one clip at a time; one that hangs or dies is replaced."""

import contextlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.data.decode import DecodeError, read_clip


class ClipTask(NamedTuple):
    """What to read."""

    path: str
    start: int
    frames: int
    target: tuple[int, int]  # (height, width)


class ClipAnswer(NamedTuple):
    """What came of it: a clip, or why there is none."""

    clip: Tensor | None = None  # float32 [3, T, H, W] in [-1, 1]
    fps: float = 0.0
    fault: str = ""


def read_here(task: ClipTask) -> ClipAnswer:
    """Read a clip in this process."""
    try:
        return ClipAnswer(*read_clip(*task))
    except DecodeError as error:
        return ClipAnswer(fault=str(error))


class ClipWorkers:
    """A fixed number of worker processes, started when they are first needed."""

    def __init__(self, count: int, stuck_after_s: float) -> None:
        self._workers = [_Worker(stuck_after_s) for _ in range(count)]
        self._waiting: deque[tuple[int, ClipTask]] = deque()

    def submit(self, number: int, task: ClipTask) -> None:
        """Read a clip when a worker is free; its answer will carry `number`."""
        self._waiting.append((number, task))
        self._hand_out()

    def answers(self) -> Iterator[tuple[int, ClipAnswer]]:
        """Wait until at least one clip is read, or given up, and return what there is."""
        busy = [worker for worker in self._workers if worker.number is not None]
        ready = wait([worker.connection for worker in busy], min(w.seconds_left() for w in busy))
        for worker in busy:
            if worker.connection in ready or worker.seconds_left() <= 0:
                yield worker.finish()
        self._hand_out()

    def close(self) -> None:
        """End all processes."""
        self._waiting.clear()
        for worker in self._workers:
            worker.stop()

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.number is None and self._waiting:
                worker.begin(*self._waiting.popleft())


class _Worker:
    def __init__(self, stuck_after_s: float) -> None:
        self._stuck_after_s = stuck_after_s
        self._process: Any = None
        self._lifeline: Connection | None = None  # closes with this process, which ends the worker
        self._began = 0.0
        self.connection: Connection
        self.number: int | None = None  # of the clip that is being read

    def begin(self, number: int, task: ClipTask) -> None:
        if self._process is None:
            self._start()
        self.number, self._began = number, time.monotonic()
        with contextlib.suppress(OSError):  # it died while it had nothing to do: `finish` sees it
            self.connection.send(task)

    def seconds_left(self) -> float:
        return max(0.0, self._began + self._stuck_after_s - time.monotonic())

    def finish(self) -> tuple[int, ClipAnswer]:
        number, self.number = self.number, None
        assert number is not None
        try:
            if self.connection.poll():
                return number, ClipAnswer(*self.connection.recv())
            fault = f"no answer within {self._stuck_after_s:g} s"
        except (EOFError, OSError):
            self._process.join(1)
            fault = f"its reader died with exit code {self._process.exitcode}"
        self.stop()
        return number, ClipAnswer(fault=fault)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self.connection.close()
            self._process = None

    def _start(self) -> None:
        context = torch.multiprocessing.get_context("spawn")  # this process has threads: never fork
        self.connection, theirs = context.Pipe()
        lifeline, self._lifeline = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(theirs, lifeline), daemon=True)
        self._process.start()
        theirs.close()
        lifeline.close()


def _serve(connection: Connection, lifeline: Connection) -> None:
    """A worker's life: read what is asked for until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        clip, fps, fault = read_here(ClipTask(*task))
        connection.send((clip, fps, fault))


def _end_with(lifeline: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv()
    os._exit(0)  # whatever the main thread is stuck in
