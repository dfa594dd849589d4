"""`soractl sample`: prompts and a checkpoint become videos, on every GPU of this machine."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from soractl.cluster.settings import this_machine
from soractl.errors import ExitCode
from soractl.evaluation.samplers import Made, Sampler, devices, perform
from soractl.runs.find import LATEST, find_run
from soractl.terminal.meter import Meter, Show, Unit

VIDEOS = Unit(
    lambda done, total: f"{done} of {total} videos",
    lambda per_s: f"{1 / per_s:.3g} s/video",
)


@dataclass(frozen=True)
class SampleOptions:
    """Options of `sample`, which are those of the trainer's program; None leaves them to it."""

    checkpoint: str
    prompt: tuple[str, ...] = ()
    prompts: Path | None = None
    reference: tuple[Path, ...] = ()
    mask_strategy: str | None = None
    num_samples: int | None = None
    loops: int | None = None
    aesthetic_score: float | None = None
    motion_score: float | None = None
    camera_motion: str | None = None
    frames: str | None = None
    resolution: str | None = None
    ratio: str | None = None
    fps: int | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    seed: int | None = None
    weights: str | None = None
    out: Path | None = None
    runs: str = "runs"

    def arguments(self) -> list[str]:
        """The arguments of `python -m trainer.sample`.

        >>> SampleOptions("latest", ("a cat",), fps=24).arguments()
        ['latest', '--prompt=a cat', '--fps=24', '--runs=runs']
        """
        words = [self.checkpoint]
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            values = value if isinstance(value, tuple) else [value]
            flag = f"--{field.name.replace('_', '-')}"
            words += [f"{flag}={one}" for one in values if one is not None]
        return words


@dataclass(frozen=True)
class Sampled:
    """Result of `sample`: all tasks in order, those that were done before among them."""

    made: tuple[Made, ...]  # by this command
    tasks: tuple[Mapping[str, Any], ...]
    seconds: float
    contact_sheets: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Made, ...]:
        """Tasks without a video."""
        return tuple(one for one in self.made if one.reason)

    @property
    def exit_code(self) -> ExitCode:
        """1 if no video could be made, 3 if some could not."""
        if not self.failed:
            return ExitCode.OK
        nothing = len(self.failed) == len(self.tasks)
        return ExitCode.FAILED if nothing else ExitCode.SOME_FAILED


def sample(options: SampleOptions, environ: Mapping[str, str], show: Show) -> Sampled:
    """Make the videos that are not there yet; SoractlError if the request is wrong.

    A checkpoint of a run's number or name is the run's newest complete one.
    """
    began = time.monotonic()
    options = replace(options, checkpoint=_checkpoint(options))
    first, *others = devices(environ, this_machine(environ).gpus)
    with ExitStack() as stack:
        sampler = stack.enter_context(Sampler.on(first))
        tasks = sampler.ask({"plan": options.arguments()})["tasks"]
        left = [task for task in tasks if not task["done"]]
        more = [stack.enter_context(Sampler.on(device)) for device in others[: len(left) - 1]]
        made = made_of(tasks, [sampler, *more], show)
        lost = {one.task["file"] for one in made if one.reason}
        whole = [task for task in tasks if task["file"] not in lost]
        sheets = _contact_sheets(whole, sampler) if left else ()
    return Sampled(tuple(made), tuple(tasks), time.monotonic() - began, sheets)


def _checkpoint(options: SampleOptions) -> str:
    """A folder, and `latest`, as they are; a run's number or name as its folder."""
    text = options.checkpoint
    if text == LATEST or "/" in text or Path(text).exists():
        return text
    return str(find_run(Path(options.runs), text).path)


def made_of(
    tasks: Sequence[Mapping[str, Any]],
    samplers: Sequence[Sampler],
    show: Show,
    what: str = "",
    on_made: Callable[[Made], None] = lambda one: None,
) -> list[Made]:
    """The ends of those tasks that were not done before, with progress under the name `what`."""

    def ended(one: Made) -> None:
        meter.advance(1, failed=int(bool(one.reason)))
        on_made(one)

    left = [task for task in tasks if not task["done"]]
    meter = Meter(VIDEOS, len(tasks), show, done=len(tasks) - len(left), what=what)
    return perform(
        left,
        samplers,
        ended,
        lambda step, steps: meter.advance(0, more=f"step {step} of {steps}"),
    )


def _contact_sheets(tasks: Sequence[Mapping[str, Any]], sampler: Sampler) -> tuple[str, ...]:
    """One a folder, with every video that was asked for."""
    folders: dict[Path, list[tuple[str, str]]] = {}
    for task in tasks:
        file = Path(task["file"])
        folders.setdefault(file.parent, []).append((str(file), f"{file.stem}: {task['text']}"))
    return tuple(str(sampler.ask({"contact_sheet": films})["made"]) for films in folders.values())
