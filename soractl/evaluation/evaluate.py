"""`soractl eval`: samples every new checkpoint of runs, once, and publishes what it made."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from soractl.cluster.gpus import read_gpus
from soractl.cluster.settings import this_machine
from soractl.errors import ExitCode, SoractlError
from soractl.evaluation.claims import Claims
from soractl.evaluation.find_new import Item, find_new, is_done
from soractl.evaluation.presets import Preset
from soractl.evaluation.publish import Origin, Published, Publisher
from soractl.evaluation.retries import Retries
from soractl.evaluation.sample import made_of
from soractl.evaluation.samplers import DiskFull, Made, Sampler, devices
from soractl.remote.connections import Connections
from soractl.remote.nodes import this_machine as this_node
from soractl.terminal.meter import Show
from trainer.atomic_files import is_disk_full

GPU_DEADLINE_S = 10.0


class EndOfServer(SoractlError):
    """An error that every checkpoint would have: prompts or preset, GPUs in use."""


@dataclass(frozen=True)
class EvalOptions:
    """Options of `eval`."""

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
    wait_s: float = 0.0  # until the next of them
    disk_full: bool = False
    published: Published = field(default_factory=Published)


class Server:
    """Samplers whose networks stay loaded from checkpoint to checkpoint.

    >>> with Server(options, LocalRuns([run]), publisher, os.environ, display.show) as server:
    ...     ends = list(server.round())
    """

    def __init__(
        self,
        options: EvalOptions,
        origin: Origin,
        publisher: Publisher,
        environ: Mapping[str, str],
        show: Show,
        claims: Claims | None = None,
    ) -> None:
        self._options, self._origin = options, origin
        self._publisher, self._show = publisher, show
        self._devices = devices(environ, this_machine(environ).gpus)
        self.retries = Retries()
        self._tried: set[Path] = set()  # checkpoints of this round
        self._full: dict[Path, str] = {}  # runs whose disk was full in this round, and the reason
        self._claims = claims or Claims()
        self._stack = ExitStack()
        self._samplers: list[Sampler] = []
        self._may_sample = options.force or self._devices == [None]

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def prepare(self) -> None:
        """Start the processes, so that they have loaded their libraries when a checkpoint comes.

        Not on GPUs yet that a training may take before then.
        """
        if self._may_sample and not self._samplers:
            for device in self._devices:
                self._samplers.append(self._stack.enter_context(Sampler.on(device)))

    def round(self) -> Iterator[Evaluated]:
        """Every checkpoint that is new, also those that come meanwhile, each tried once.

        One that fails does not end the round.
        """
        self._tried.clear()
        self._full.clear()
        while (item := self._next()) is not None:
            self._tried.add(item.checkpoint.path)
            if (end := self._turn(item)) is not None:
                yield end
        self._publisher.settle()

    def left_out(self) -> Iterator[Evaluated]:
        """Checkpoints that the last round did not try, since their run's disk was full."""
        for item in self._new():
            reason = self._full.get(item.run.path)
            if reason and item.checkpoint.path not in self._tried:
                yield Evaluated(
                    item, reason=reason, tries_left=self.retries.left(item), disk_full=True
                )

    def _next(self) -> Item | None:
        new = (
            item
            for item in self._new()
            if item.checkpoint.path not in self._tried and self.retries.may_try(item)
        )
        return next(new, None)

    def _new(self) -> Iterator[Item]:
        options = self._options
        for run in self._origin.ready:
            yield from find_new(
                run,
                options.preset_name,
                options.weights,
                newest_first=options.newest_first,
                first_of_epoch=options.first_of_epoch,
            )

    def _turn(self, item: Item) -> Evaluated | None:
        """The end of a checkpoint's turn; None if another server has it."""
        try:
            with self._claims.claimed(item.folder / ".claim") as is_ours:
                # another server may have been quicker
                return self._evaluated(item) if is_ours and not is_done(item) else None
        except OSError as error:  # a full disk, a folder that is another's
            return self._failed(item, str(error), 0.0, disk_full=is_disk_full(error))

    def _evaluated(self, item: Item) -> Evaluated:
        began = time.monotonic()
        try:
            tasks = self._planned(item)
            lost = [one for one in self._made(item, tasks) if one.reason]
            if not lost:
                published = self._publisher.publish(item, tasks)
                seconds = time.monotonic() - began
                self.retries.worked(item)
                return Evaluated(item, len(tasks), seconds, published=published)
            first = next((one for one in lost if one.disk_full), lost[0])
            reason, is_full = first.reason, first.disk_full
        except EndOfServer:
            raise
        except (SoractlError, OSError) as error:
            reason, is_full = str(error), _is_disk_full(error)
        self._restart()
        return self._failed(item, reason, time.monotonic() - began, disk_full=is_full)

    def _failed(self, item: Item, reason: str, seconds: float, *, disk_full: bool) -> Evaluated:
        wait_s = self.retries.failed(item, disk_full=disk_full)
        if disk_full:
            self._full[item.run.path] = reason
        left = self.retries.left(item)
        return Evaluated(item, 0, seconds, reason, left, wait_s, disk_full=disk_full)

    def _made(self, item: Item, tasks: Sequence[Mapping[str, Any]]) -> list[Made]:
        there = [task for task in tasks if task["done"]]

        def made(one: Made) -> None:
            if not one.reason:
                there.append(one.task)
                self._publisher.show(item, list(there))

        self._publisher.begin(item)
        return made_of(tasks, self._samplers, self._show, str(item), made)

    def _planned(self, item: Item) -> Sequence[Mapping[str, Any]]:
        """A task a video; EndOfServer for a mistake that every checkpoint would show."""
        if not self._may_sample:
            _refuse_busy_gpus()
            self._may_sample = True  # from now on they are in use by us
        self.prepare()
        request = {"plan": _arguments(item, self._options)}
        try:
            tasks: Sequence[Mapping[str, Any]] = self._samplers[0].ask(request)["tasks"]
        except SoractlError as error:
            if error.exit_code == ExitCode.BAD_REQUEST:
                raise EndOfServer(str(error)) from None
            raise
        return tasks

    def _restart(self) -> None:
        """A process that failed may have ended, or hold memory: new ones take its place."""
        self._stack.close()
        self._samplers = []


def _is_disk_full(error: Exception) -> bool:
    return isinstance(error, DiskFull) or (isinstance(error, OSError) and is_disk_full(error))


def _refuse_busy_gpus() -> None:
    with Connections() as remote:
        (row,) = read_gpus([this_node()], remote, deadline_s=GPU_DEADLINE_S)
    if row.busy:
        users = f" by {', '.join(row.users)}" if row.users else ""
        raise EndOfServer(
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
