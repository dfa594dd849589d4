"""Processes of `trainer.sample --serve`, one a device: tasks go to whichever is free."""

import json
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from soractl.errors import ExitCode, SoractlError
from soractl.remote.local import Conversation

Answer = Mapping[str, Any]
_OF_A_KIND = (
    *("checkpoint", "digest", "weights", "frames", "height", "width"),
    *("fps", "loops", "steps", "cfg_scale"),
)

OnStep = Callable[[int, int], None]  # (sampling steps done, of how many)


class SamplerEnded(SoractlError):
    """A sampler's process ended before it answered; its last line says why."""


class DiskFull(SoractlError):
    """There was no room for a file: that is no fault of the checkpoint."""


@dataclass(frozen=True)
class Made:
    """The end of one task: a video, or the reason why there is none."""

    task: Answer
    seconds: float = 0.0
    loading_s: float = 0.0
    reason: str = ""
    disk_full: bool = False


class Sampler:
    """One process that samples; networks stay loaded from task to task.

    >>> with Sampler.on(None) as sampler:
    ...     tasks = sampler.ask({"plan": ["latest", "--prompt", "a cat"]})["tasks"]
    """

    def __init__(self, program: Conversation) -> None:
        self._program = program
        self._answers = program.answers()

    @classmethod
    @contextmanager
    def on(cls, device: str | None) -> Iterator["Sampler"]:
        """A process that sees one GPU, or the devices that this process sees."""
        visible = [f"CUDA_VISIBLE_DEVICES={device}"] if device is not None else []
        argv = ("env", *visible, sys.executable, "-m", "trainer.sample", "--serve")
        with Conversation(argv) as program:
            yield cls(program)

    def ask(self, request: Answer, on_step: OnStep | None = None) -> Answer:
        """The answer; SoractlError or DiskFull for a fault, SamplerEnded where the process ends."""
        self._program.send(json.dumps(request))
        for line in self._answers:
            answer: Answer = json.loads(line)
            if "steps" in answer:
                if on_step:
                    on_step(answer["step"], answer["steps"])
            elif "error" in answer:
                kind = DiskFull if answer.get("disk_full") else SoractlError
                raise kind(answer["error"], exit_code=ExitCode(answer["exit_code"]))
            else:
                return answer
        raise SamplerEnded(f"the sampling process {self._end()}", exit_code=ExitCode.FAILED)

    def _end(self) -> str:
        if self._program.killed_by() == signal.SIGKILL:
            return "was killed, as the kernel does where a machine's memory is full"
        lines = self._program.last_words().splitlines() or ["it printed nothing"]
        return f"ended: {lines[-1]}"


def devices(environ: Mapping[str, str], gpus: int) -> list[str | None]:
    """The devices to sample on, one process each: the visible GPUs, else the CPU.

    >>> devices({"CUDA_VISIBLE_DEVICES": "4,5"}, 2), devices({}, 0)
    (['4', '5'], [None])
    """
    if not gpus:
        return [None]
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    return list(visible.replace(" ", "").split(",")[:gpus] if visible else map(str, range(gpus)))


@dataclass(frozen=True)
class _Numbered:
    """A task and its place among all."""

    number: int
    task: Answer


Group = list[_Numbered]


class _Work:
    """Groups of tasks that wait for a sampler, and what became of them."""

    def __init__(self, groups: Sequence[Group], on_made: Callable[[Made], None]) -> None:
        self._waiting: queue.SimpleQueue[Group] = queue.SimpleQueue()
        for group in groups:
            self._waiting.put(group)
        self._on_made = on_made
        self.made: dict[int, Made] = {}

    def by(self, sampler: Sampler, on_step: OnStep) -> None:
        """Group after group, until none waits or the sampler's process has ended."""
        while True:
            try:
                group = self._waiting.get_nowait()
            except queue.Empty:
                return
            try:
                answer = sampler.ask({"perform": [one.task for one in group]}, on_step)
            except SamplerEnded as error:
                self._fail(group, error)
                return
            except SoractlError as error:
                if len(group) == 1:
                    self._fail(group, error)
                for one in group if len(group) > 1 else ():  # one may be wrong: each by itself
                    self._waiting.put([one])
                continue
            for one, seconds in zip(group, answer["seconds"], strict=True):
                self._end(one, Made(one.task, seconds, answer["loading_s"]))

    def _fail(self, group: Group, error: SoractlError) -> None:
        for one in group:
            reason, is_full = str(error), isinstance(error, DiskFull)
            self._end(one, Made(one.task, reason=reason, disk_full=is_full))

    def _end(self, one: _Numbered, made: Made) -> None:
        self.made[one.number] = made
        self._on_made(made)


def perform(
    tasks: Sequence[Answer],
    samplers: Sequence[Sampler],
    on_made: Callable[[Made], None],
    on_step: OnStep,
) -> list[Made]:
    """Every task by whichever sampler is free; in the order of the tasks.

    A sampler whose process ends leaves the other tasks to the rest.
    """
    work = _Work(_groups(tasks, len(samplers)), on_made)
    threads = [
        # daemons: Ctrl-C does not wait for a video
        threading.Thread(target=work.by, args=(sampler, on_step), daemon=True)
        for sampler in samplers[: len(tasks)]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    never = "no sampling process was left"
    return [work.made.get(number, Made(task, reason=never)) for number, task in enumerate(tasks)]


def _groups(tasks: Sequence[Answer], samplers: int) -> list[Group]:
    """Tasks of one size that follow each other, as many as are best made together.

    No more than leaves every sampler its share.
    """
    groups: list[Group] = []
    share = -(-len(tasks) // max(1, samplers))
    for number, task in enumerate(tasks):
        most = min(int(task.get("together", 1)), share)
        if groups and len(groups[-1]) < most and _kind(groups[-1][0].task) == _kind(task):
            groups[-1].append(_Numbered(number, task))
        else:
            groups.append([_Numbered(number, task)])
    return groups


def _kind(task: Answer) -> tuple[Any, ...]:
    return tuple(task.get(name) for name in _OF_A_KIND)
