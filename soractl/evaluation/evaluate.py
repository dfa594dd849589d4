"""`soractl eval`: samples every new checkpoint of runs, once, and publishes what it made."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from soractl.cluster.gpus import read_gpus
from soractl.cluster.settings import this_machine
from soractl.errors import ExitCode, SoractlError
from soractl.evaluation.alarms import Alarm, find_alarms
from soractl.evaluation.claims import Claims
from soractl.evaluation.find_new import Item, find_new, is_done
from soractl.evaluation.gallery import write_gallery
from soractl.evaluation.presets import Preset
from soractl.evaluation.sample import made_of
from soractl.evaluation.samplers import Made, Sampler, devices
from soractl.remote.connections import Connections
from soractl.remote.nodes import this_machine as this_node
from soractl.runs.events import EventKind, EventLog
from soractl.terminal.meter import Show
from trainer.atomic_files import RunDirError, read_json, write_json
from trainer.run_dir import RunDir

SCHEMA_VERSION = 1
MOST_TRIES = 3  # of one checkpoint, by one server
GPU_DEADLINE_S = 10.0


class WrongPrompts(SoractlError):
    """Prompts or preset cannot be sampled, from any checkpoint."""


@dataclass(frozen=True)
class EvalOptions:
    """Options of `eval`."""

    runs: tuple[RunDir, ...]
    preset_name: str
    preset: Preset
    prompts: Path
    weights: str = "ema"
    newest_first: bool = False
    first_of_epoch: bool = False
    force: bool = False  # also on GPUs that are in use


@dataclass(frozen=True)
class Evaluated:
    """One checkpoint's end: its videos, or the reason why it has none."""

    item: Item
    videos: int = 0
    seconds: float = 0.0
    reason: str = ""
    tries_left: int = 0
    alarms: tuple[Alarm, ...] = ()
    gallery_fault: str = ""  # the videos are there, and the page does not show them


class Server:
    """Samplers whose networks stay loaded from checkpoint to checkpoint.

    >>> with Server(options, os.environ, display.show) as server:
    ...     ends = list(server.round())
    """

    def __init__(self, options: EvalOptions, environ: Mapping[str, str], show: Show) -> None:
        self._options, self._show = options, show
        self._devices = devices(environ, this_machine(environ).gpus)
        self._tries: Counter[str] = Counter()
        self._claims = Claims()
        self._stack = ExitStack()
        self._samplers: list[Sampler] = []

    def __enter__(self) -> "Server":
        if self._devices != [None] and not self._options.force:
            _refuse_busy_gpus()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def round(self) -> Iterator[Evaluated]:
        """Every checkpoint that is new now; one that fails does not end the round."""
        for item in self._new():
            if self._tries[item.digest] >= MOST_TRIES:
                continue
            with self._claims.claimed(item.folder / ".claim") as is_ours:
                if is_ours and not is_done(item):  # another server may have been quicker
                    yield self._evaluated(item)

    def _new(self) -> list[Item]:
        options = self._options
        return [
            item
            for run in options.runs
            for item in find_new(
                run,
                options.preset_name,
                options.weights,
                newest_first=options.newest_first,
                first_of_epoch=options.first_of_epoch,
            )
        ]

    def _evaluated(self, item: Item) -> Evaluated:
        began = time.monotonic()
        try:
            made = self._made(item)
            lost = [one for one in made if one.reason]
            if not lost:
                return _published(item, made, self._options, began)
            reason = lost[0].reason
        except WrongPrompts:
            raise
        except (SoractlError, OSError) as error:
            reason = str(error)
        self._restart()
        self._tries[item.digest] += 1
        left = MOST_TRIES - self._tries[item.digest]
        return Evaluated(item, 0, time.monotonic() - began, reason, left)

    def _made(self, item: Item) -> list[Made]:
        if not self._samplers:
            self._samplers = [
                self._stack.enter_context(Sampler.on(device)) for device in self._devices
            ]
        tasks = self._planned(item)
        made = made_of(tasks, self._samplers, self._show, str(item))
        by_file = {one.task["file"]: one for one in made}
        return [by_file.get(task["file"], Made(task)) for task in tasks]

    def _planned(self, item: Item) -> Sequence[Mapping[str, Any]]:
        """A task a video; WrongPrompts for a mistake that every checkpoint would show."""
        request = {"plan": _arguments(item, self._options)}
        try:
            tasks: Sequence[Mapping[str, Any]] = self._samplers[0].ask(request)["tasks"]
        except SoractlError as error:
            if error.exit_code == ExitCode.BAD_REQUEST:
                raise WrongPrompts(str(error)) from None
            raise
        return tasks

    def _restart(self) -> None:
        """A process that failed may have ended, or hold memory: new ones take its place."""
        self._stack.close()
        self._samplers = []


def _refuse_busy_gpus() -> None:
    with Connections() as remote:
        (row,) = read_gpus([this_node()], remote, deadline_s=GPU_DEADLINE_S)
    if row.busy:
        users = f" by {', '.join(row.users)}" if row.users else ""
        raise SoractlError(
            f"this machine's GPUs are in use{users}",
            hint="CUDA_VISIBLE_DEVICES selects idle ones, and --force samples beside others",
            exit_code=ExitCode.REFUSED,
        )


def _arguments(item: Item, options: EvalOptions) -> list[str]:
    preset = [
        f"--{field.name.replace('_', '-')}={value}"
        for field in fields(options.preset)
        if (value := getattr(options.preset, field.name)) is not None
    ]
    return [
        str(item.checkpoint.path),
        f"--prompts={options.prompts}",
        f"--weights={options.weights}",
        f"--out={item.folder}",
        *preset,
    ]


def _published(item: Item, made: Sequence[Made], options: EvalOptions, began: float) -> Evaluated:
    """The result, which makes the videos count, then what others are to see of it."""
    videos = [_video(one.task) for one in made]
    alarms = tuple(find_alarms(videos))
    write_json(item.result, _result(item, videos, alarms, options))
    step = item.checkpoint.manifest.global_step
    for alarm in alarms:
        text = f"{alarm} ({item.preset})"
        EventLog(item.run, "eval").write(EventKind.ALARM, step=step, text=text)
    fault = ""
    try:
        for run in options.runs:  # each run's page shows the others beside it
            write_gallery([run, *(other for other in options.runs if other != run)])
    except OSError as error:
        fault = str(error)
    return Evaluated(item, len(made), time.monotonic() - began, alarms=alarms, gallery_fault=fault)


def _result(
    item: Item,
    videos: Sequence[Mapping[str, Any]],
    alarms: Sequence[Alarm],
    options: EvalOptions,
) -> dict[str, Any]:
    manifest = item.checkpoint.manifest
    return {
        "schema_version": SCHEMA_VERSION,
        "run": item.run.name,
        "preset": item.preset,
        "global_step": manifest.global_step,
        "epoch": manifest.epoch,
        "checkpoint": item.checkpoint.name,
        "digest": item.digest,
        "weights": options.weights,
        "videos": list(videos),
        "alarms": [alarm.as_json() for alarm in alarms],
        "made_unix_s": time.time(),
    }


def _video(task: Mapping[str, Any]) -> dict[str, Any]:
    """A video by its name in the result's folder, with what its own manifest says of its frames."""
    file = Path(task["file"])
    try:
        manifest = read_json(file.with_suffix(".json"))
    except (OSError, RunDirError):  # written a moment ago; the video counts without it
        manifest = {}
    return {
        "name": file.name,
        "prompt": task["text"],
        **{key: task[key] for key in ("seed", "height", "width")},
        **{key: manifest.get(key) for key in ("poster", "measures")},
    }


Wait = Callable[[float], None]


def rounds(server: Server, every_s: float | None, wait: Wait = time.sleep) -> Iterator[Evaluated]:
    """Round after round, or one alone."""
    while True:
        yield from server.round()
        if every_s is None:
            return
        wait(every_s)
