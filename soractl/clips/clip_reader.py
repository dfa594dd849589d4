"""`python -m soractl.clips.clip_reader info|check`: clips on stdin, an answer for each on stdout.

Forks of this process read the clips, so that no file can stop the others: if one crashes the
decoder or hangs it, the waiting process reports that clip, and a new fork continues.
"""

import argparse
import importlib.util
import json
import math
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from soractl.errors import ExitCode
from soractl.terminal import output
from soractl.terminal.text import signal_name, span
from trainer.data.formats import Unfit

Read = Callable[[str, int | None], dict[str, Any]]
NO_DECODER = "PyAV or Pillow is not installed"
FORK = get_context("fork")  # a new interpreter costs more than many clips


class _Reader:
    """A process that reads one clip after the other; it is replaced if it crashed or hung."""

    def __init__(self, read: Read, stuck_after_s: float) -> None:
        self._read, self._stuck_after_s = read, stuck_after_s
        self._task: dict[str, Any] | None = None
        self._began = 0.0
        self._start()

    @property
    def is_idle(self) -> bool:
        return self._task is None

    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def left_s(self) -> float:
        return max(0.0, self._stuck_after_s - self.elapsed_s())

    def begin(self, task: dict[str, Any]) -> None:
        self._task, self._began = task, time.monotonic()
        with suppress(OSError):  # it has just crashed: `end` sees it
            self.connection.send(task)

    def end(self) -> dict[str, Any]:
        """The answer to the task, or the reason why none came."""
        assert self._task is not None
        answer: dict[str, Any] = _failure(f"not finished within {span(self._stuck_after_s)}")
        try:
            is_well = self.connection.poll()
            answer = self.connection.recv() if is_well else answer
        except (EOFError, OSError):
            is_well = False
            self._process.join()
            answer = _failure(f"its reader crashed: {_ending(self._process.exitcode)}")
        answer |= {"path": self._task["path"], "seconds": round(self.elapsed_s(), 3)}
        self._task = None
        if not is_well:
            self.stop()
            self._start()
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.join(1)  # one that waits in the kernel for a disk may not go
        self.connection.close()

    def _start(self) -> None:
        self.connection, theirs = FORK.Pipe()
        arguments = (self._read, self._stuck_after_s, theirs, self.connection)
        self._process = FORK.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()


def read_all(
    tasks: Iterable[dict[str, Any]],
    read: Read,
    *,
    workers: int,
    stuck_after_s: float,
    may_begin: Callable[[], bool],
) -> Iterator[dict[str, Any]]:
    """Answers in the order of their arrival; no clip is begun once `may_begin` returns False."""
    waiting = deque(tasks)
    readers = [_Reader(read, stuck_after_s) for _ in range(min(workers, len(waiting)))]
    try:
        while True:
            for reader in readers:
                if reader.is_idle and waiting and may_begin():
                    reader.begin(waiting.popleft())
            busy = [reader for reader in readers if not reader.is_idle]
            if not busy:
                return
            longest_s = min(reader.left_s() for reader in busy)
            ready = wait([reader.connection for reader in busy], longest_s)
            for reader in busy:
                if reader.connection in ready or reader.left_s() == 0:
                    yield reader.end()
    finally:
        for reader in readers:
            reader.stop()


def main() -> int:
    """The program that a node runs; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("info", "check"))
    parser.add_argument("--workers", type=int, default=0, help="0: as many as cores")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--stuck-after", type=float, required=True)
    arguments = parser.parse_args()
    if any(importlib.util.find_spec(module) is None for module in ("av", "PIL")):
        output.note(NO_DECODER)
        return ExitCode.BAD_REQUEST
    from soractl.clips import clip_facts  # now, and not anew in each of the processes

    end = time.monotonic() + arguments.seconds
    answers = read_all(
        map(json.loads, sys.stdin.read().splitlines()),
        clip_facts.measure if arguments.what == "info" else clip_facts.decode,
        workers=arguments.workers or len(os.sched_getaffinity(0)),
        stuck_after_s=arguments.stuck_after,
        may_begin=lambda: time.monotonic() < end,
    )
    with suppress(BrokenPipeError):  # the command that asked is gone
        for answer in answers:
            output.result(json.dumps(answer))
    return ExitCode.OK


def _serve(read: Read, stuck_after_s: float, connection: Connection, parents: Connection) -> None:
    """Answer tasks until the process that sends them is gone."""
    parents.close()
    alone_s = math.ceil(stuck_after_s) + 1  # ends a hung fork whose parent was killed
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        signal.alarm(alone_s)
        answer = _answer(task, read)
        signal.alarm(0)
        connection.send(answer)


def _answer(task: dict[str, Any], read: Read) -> dict[str, Any]:
    try:
        return {"ok": True, "reason": "", **read(task["path"], task.get("num_frames"))}
    except Unfit as fault:
        return _failure(str(fault))
    except Exception as error:  # noqa: BLE001  (any error of a decoder is a fault of its file)
        return _failure(f"{type(error).__name__}: {error}")


def _failure(reason: str) -> dict[str, Any]:
    return {"ok": False, "reason": reason}


def _ending(exit_code: int | None) -> str:
    if exit_code is None:
        return "without an exit code"
    return signal_name(-exit_code) if exit_code < 0 else f"exit code {exit_code}"


if __name__ == "__main__":
    sys.exit(main())
