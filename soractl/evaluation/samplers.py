"""Processes of `trainer.sample --serve`, one a device: tasks go to whichever is free."""

import json
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from soractl.errors import ExitCode, SoractlError
from soractl.remote.local import Conversation

Answer = Mapping[str, Any]
OnStep = Callable[[int, int], None]  # (sampling steps done, of how many)


class SamplerEnded(SoractlError):
    """A sampler's process ended before it answered; its last line says why."""


@dataclass(frozen=True)
class Made:
    """The end of one task: a video, or the reason why there is none."""

    task: Answer
    seconds: float = 0.0
    loading_s: float = 0.0
    reason: str = ""


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
        """The answer; SoractlError if the request fails, SamplerEnded if the process does."""
        self._program.send(json.dumps(request))
        for line in self._answers:
            answer: Answer = json.loads(line)
            if "steps" in answer:
                if on_step:
                    on_step(answer["step"], answer["steps"])
            elif "error" in answer:
                raise SoractlError(answer["error"], exit_code=ExitCode(answer["exit_code"]))
            else:
                return answer
        lines = self._program.last_words().splitlines() or ["it printed nothing"]
        raise SamplerEnded(f"the sampling process ended: {lines[-1]}", exit_code=ExitCode.FAILED)


def devices(environ: Mapping[str, str], gpus: int) -> list[str | None]:
    """The devices to sample on, one process each: the visible GPUs, else the CPU.

    >>> devices({"CUDA_VISIBLE_DEVICES": "4,5"}, 2), devices({}, 0)
    (['4', '5'], [None])
    """
    if not gpus:
        return [None]
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    return list(visible.replace(" ", "").split(",")[:gpus] if visible else map(str, range(gpus)))


def perform(
    tasks: Sequence[Answer],
    samplers: Sequence[Sampler],
    on_made: Callable[[Made], None],
    on_step: OnStep,
) -> list[Made]:
    """Every task by whichever sampler is free; in the order of the tasks.

    A sampler whose process ends leaves the other tasks to the rest.
    """
    waiting: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
    for item in enumerate(tasks):
        waiting.put(item)
    made: dict[int, Made] = {}
    threads = [
        # daemons: Ctrl-C does not wait for a video
        threading.Thread(target=_work, args=(sampler, waiting, made, on_made, on_step), daemon=True)
        for sampler in samplers[: len(tasks)]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    never = "no sampling process was left"
    return [made.get(number, Made(task, reason=never)) for number, task in enumerate(tasks)]


def _work(
    sampler: Sampler,
    waiting: "queue.SimpleQueue[tuple[int, Answer]]",
    made: dict[int, Made],
    on_made: Callable[[Made], None],
    on_step: OnStep,
) -> None:
    while True:
        try:
            number, task = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            answer = sampler.ask({"perform": task}, on_step)
            made[number] = Made(task, answer["seconds"], answer["loading_s"])
        except SoractlError as error:
            made[number] = Made(task, reason=str(error))
            if isinstance(error, SamplerEnded):
                return
        finally:
            if number in made:
                on_made(made[number])
