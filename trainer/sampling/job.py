"""A job of sampling: a task a video, planned before networks are loaded, skipped where done."""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer import config
from trainer.atomic_files import RunDirError, describe_file, read_json, write_json
from trainer.checkpoint_dir import Checkpoint, read_checkpoint, step_and_epoch
from trainer.checkpoints.integrity import files_of, refuse_damaged
from trainer.data.resolutions import frame_count, image_size
from trainer.manifest import MANIFEST
from trainer.model.latent_size import MICRO_FRAMES, latent_frames
from trainer.run_dir import RunDir, run_of, runs
from trainer.sampling.films import poster_of, write_poster, write_video
from trainer.sampling.judge import measures_of
from trainer.sampling.memory import TooLarge, available_bytes, refuse_too_large, smaller
from trainer.sampling.prompt_files import Entry
from trainer.sampling.prompts import Prompt, Scores, parse_prompt
from trainer.sampling.sampler import Preset, Sampler, Shot, read_reference
from trainer.settings import ConfigError

SCHEMA_VERSION = 1
NO_SCORES = Scores()
FULL_TOKENS = 16_000  # without guidance, which doubles them
MOST_TOGETHER = 8
PIXELS_OF_A_TOKEN = 16 * 16  # 8 of the VAE, 2 of the model's patches, each way
_PACKAGES = ("soractl", "torch", "diffusers", "transformers", "av")


class NoCheckpoint(ConfigError):
    """There is nothing to sample from; soractl's exit code for that is 6."""


@dataclass(frozen=True)
class Choices:
    """Options that hold for every prompt that does not state its own."""

    weights: str = "ema"
    frames: str = "51"
    resolution: str = "240p"
    ratio: str = "9:16"
    fps: int = 24
    loops: int = 1
    seed: int = 42
    samples: int = 1
    steps: int | None = None
    cfg_scale: float | None = None
    references: tuple[Path, ...] = ()
    mask_strategy: str = ""
    scores: Scores = NO_SCORES


@dataclass(frozen=True)
class Task:
    """One video to make; its fields travel as JSON from the program that plans to those that work.

    The same task makes the same file: on CPUs bit for bit, in any process and any order.
    """

    file: str
    checkpoint: str
    digest: str  # of the checkpoint's manifest
    weights: str
    text: str  # the prompt's line as it was given
    references: tuple[str, ...]
    mask_strategy: str
    scores: tuple[float | None, float | None, str | None]
    frames: int
    height: int
    width: int
    fps: int
    loops: int
    seed: int
    sample: int
    steps: int | None
    cfg_scale: float | None

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Task":
        """From JSON, whose lists are tuples here."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**fields)

    @property
    def path(self) -> Path:
        """The video."""
        return Path(self.file)

    @property
    def manifest(self) -> Path:
        """The video's manifest, written after it: without one there is no video."""
        return self.path.with_suffix(".json")

    @property
    def preset(self) -> Preset:
        """Size, speed and sampling of the video."""
        return Preset(
            self.frames, self.height, self.width, self.fps, self.loops, self.steps, self.cfg_scale
        )

    @property
    def prompt(self) -> Prompt:
        """The prompt that the line makes; else ConfigError."""
        return parse_prompt(
            self.text,
            references=[Path(path) for path in self.references],
            mask_strategy=self.mask_strategy,
            scores=Scores(*self.scores),
        )

    def is_done(self) -> bool:
        """The video is there, and was made from the same checkpoint by the same options."""
        try:
            found = read_json(self.manifest)
            same = found["task"] == json.loads(json.dumps(self._identity()))
            return bool(same and self.path.stat().st_size == found["video"]["bytes"])
        except (OSError, RunDirError, KeyError, TypeError):
            return False

    def _identity(self) -> dict[str, Any]:
        places = ("file", "checkpoint")  # the same video elsewhere is the same
        return {key: value for key, value in asdict(self).items() if key not in places}


def find_checkpoint(text: str, root: Path) -> Checkpoint:
    """A checkpoint, or the newest complete one of a run or of `latest`; else NoCheckpoint."""
    path = Path(text)
    if (path / MANIFEST).exists() or step_and_epoch(path.name):
        found = read_checkpoint(path)
        if isinstance(found, Checkpoint):
            return found
        raise NoCheckpoint([f"{path} is no complete checkpoint: {found.reason}"])
    paths = dict.fromkeys((path, root / text))  # one, where `text` is absolute
    candidates = runs(root) if text == "latest" else [RunDir(path) for path in paths]
    complete = [checkpoint for run in candidates for checkpoint in run.checkpoints()]
    if not complete:
        looked = ", ".join(str(run.path) for run in candidates) or f"{root}/"
        raise NoCheckpoint([f"no complete checkpoint in {looked}"])
    return complete[-1]


def plan(
    checkpoint: Checkpoint, entries: Iterable[Entry], choices: Choices, out: Path | None
) -> list[Task]:
    """A task for each prompt and sample, in order.

    ConfigError for anything that would fail later: sizes, mask strategies, references.
    """
    _check_positive(num_samples=choices.samples, steps=choices.steps)
    if choices.cfg_scale is not None and not math.isfinite(choices.cfg_scale):
        raise ConfigError([f"--cfg-scale {choices.cfg_scale}; expected a number"])
    digest = describe_file(checkpoint.path / MANIFEST)["sha256"]
    tasks = [
        _task(checkpoint, digest, (number, entry, sample), choices, out)
        for number, entry in enumerate(entries)
        for sample in range(choices.samples)
    ]
    wanted = {(path, task.height, task.width) for task in tasks for path in task.prompt.references}
    for path, height, width in sorted(wanted):
        read_reference(path, height, width)
    return tasks


def perform(
    tasks: Sequence[Task], sampler: Sampler, progress: Callable[[int, int], None] | None = None
) -> list[float]:
    """Make videos of one preset together, each with its poster and, last, its manifest.

    Returns seconds of each, shared ones in equal parts. Where they do not fit the device's memory
    together they are made in halves; TooLarge if one alone does not.
    """
    began = time.monotonic()
    shots = [Shot(task.prompt, task.seed, task.sample) for task in tasks]
    videos = None
    with suppress(torch.OutOfMemoryError):  # the error holds tensors: it goes before what follows
        videos = sampler.sample_together(shots, tasks[0].preset, progress)
    if videos is None:
        torch.cuda.empty_cache()
        if len(tasks) == 1:
            raise _too_large(tasks[0], sampler)
        middle = len(tasks) // 2
        halves = tasks[:middle], tasks[middle:]
        return [seconds for half in halves for seconds in perform(half, sampler, progress)]
    shared_s = (time.monotonic() - began) / len(tasks)
    return [_write(task, video, shared_s) for task, video in zip(tasks, videos, strict=True)]


def _write(task: Task, video: Tensor, sampled_s: float) -> float:
    began = time.monotonic()
    write_video(video, task.path, task.fps)
    if (poster := poster_of(task.path)) != task.path:
        write_poster(video, poster)
    seconds = sampled_s + time.monotonic() - began
    write_json(task.manifest, _manifest(task, seconds, measures_of(video)))
    return seconds


def together(task: Task, *, on_gpu: bool) -> int:
    """Number of videos of a task's size that are best sampled together.

    A GPU is full from about so many tokens on; more at once only take memory. On CPUs one: sums
    of a product depend on its size in their last bits, and files shall be equal to the bit.
    """
    if not on_gpu:
        return 1
    tokens = latent_frames(task.frames) * task.height * task.width // PIXELS_OF_A_TOKEN
    return max(1, min(MOST_TOGETHER, FULL_TOKENS // max(1, tokens)))


def _too_large(task: Task, sampler: Sampler) -> TooLarge:
    return TooLarge(
        f"{task.frames} frames of {task.height}x{task.width} do not fit this GPU's memory; "
        f"{_what_fits(task, sampler)}"
    )


def _what_fits(task: Task, sampler: Sampler) -> str:
    """The largest length of this size that fits, which is tried: one step and the decoding."""
    for less in smaller(replace(task.preset, loops=1, steps=1)):
        if _fits(task, less, sampler):
            return f"--frames {less.frames} does"
    return "not even one frame does, take a smaller --resolution"


def _fits(task: Task, preset: Preset, sampler: Sampler) -> bool:
    try:
        sampler.sample(task.prompt, preset, task.seed)
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True


class Worker:
    """Performs tasks one after another; networks stay loaded, weights change when they must."""

    def __init__(self) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._sampler: Sampler | None = None
        self._loaded = ("", "")  # digest, weights

    def plan(
        self, checkpoint: Checkpoint, entries: Iterable[Entry], choices: Choices, out: Path | None
    ) -> list[tuple[Task, int]]:
        """Each task, and how many of its kind may be performed together here."""
        on_gpu = self._device.type == "cuda"
        return [
            (task, together(task, on_gpu=on_gpu))
            for task in plan(checkpoint, entries, choices, out)
        ]

    def perform(
        self, tasks: Sequence[Task], progress: Callable[[int, int], None] | None = None
    ) -> tuple[float, list[float]]:
        """Seconds of loading, and of making the videos of tasks of one checkpoint and preset."""
        began = time.monotonic()
        if self._loaded != (tasks[0].digest, tasks[0].weights):
            self._load(tasks[0])
        assert self._sampler is not None
        self._refuse_too_large(tasks[0], self._sampler.settings)
        return time.monotonic() - began, perform(tasks, self._sampler, progress)

    def _refuse_too_large(self, task: Task, settings: config.TrainConfig) -> None:
        """On CPUs alone: a GPU has an error of its own for it, and kills no process."""
        if self._device.type == "cpu":
            refuse_too_large(task.preset, settings, available_bytes())

    def _load(self, task: Task) -> None:
        checkpoint = find_checkpoint(task.checkpoint, Path())
        settings = config.read(run_of(checkpoint.path).config_json)
        if self._sampler is not None and not _same_networks(self._sampler.settings, settings):
            self._loaded, self._sampler = ("", ""), None  # its memory first
        self._refuse_too_large(task, settings)
        with checkpoint.being_read():
            refuse_damaged(checkpoint, files_of(checkpoint, checkpoint.path / task.weights))
            self._loaded = ("", "")
            if self._sampler is None:
                self._sampler = Sampler(settings, self._device)
            self._sampler.load(checkpoint, task.weights)
        self._loaded = (task.digest, task.weights)


def _same_networks(one: config.TrainConfig, other: config.TrainConfig) -> bool:
    def parts(settings: config.TrainConfig) -> tuple[object, ...]:
        networks = settings.model, settings.vae, settings.text_encoder, settings.flow
        return *networks, settings.seed, settings.trainer.dtype

    return parts(one) == parts(other)


def _task(
    checkpoint: Checkpoint,
    digest: str,
    video: tuple[int, Entry, int],
    choices: Choices,
    out: Path | None,
) -> Task:
    number, entry, sample = video
    preset = _preset(entry, choices)
    name = entry.id or f"sample_{number:04d}"
    name += f"-{sample}" if choices.samples > 1 else ""
    references = choices.references if entry.reference is None else entry.reference.split(";")
    folder = out or _default_folder(checkpoint, preset)
    scores = choices.scores
    task = Task(
        file=str(folder / f"{name}{'.png' if preset.frames == 1 else '.mp4'}"),
        checkpoint=str(checkpoint.path),
        digest=digest,
        weights=choices.weights,
        text=entry.text,
        references=tuple(str(path) for path in references if path),
        mask_strategy=choices.mask_strategy if entry.mask_strategy is None else entry.mask_strategy,
        scores=(scores.aesthetic, scores.motion, scores.camera_motion),
        **{
            key: value for key, value in asdict(preset).items() if key not in ("steps", "cfg_scale")
        },
        seed=choices.seed if entry.seed is None else entry.seed,
        sample=sample,
        steps=choices.steps,
        cfg_scale=choices.cfg_scale,
    )
    _ = task.prompt  # its faults come now
    return task


def _default_folder(checkpoint: Checkpoint, preset: Preset) -> Path:
    step = f"global_step{checkpoint.manifest.global_step}"
    return run_of(checkpoint.path).samples / preset.folder / step


def _preset(entry: Entry, choices: Choices) -> Preset:
    def chosen(name: str) -> Any:
        own = getattr(entry, name)
        return getattr(choices, name) if own is None else own

    try:
        height, width = image_size(chosen("resolution"), chosen("ratio"))
        frames = frame_count(chosen("frames"))
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    fps, loops = chosen("fps"), chosen("loops")
    _check_positive(fps=fps, loops=loops)
    if loops > 1 and (frames % MICRO_FRAMES or frames == MICRO_FRAMES):
        raise ConfigError(
            [
                f"--loops {loops} of {frames} frames: a loop begins with the last "
                f"{MICRO_FRAMES} frames of the one before it; give `--frames` a multiple of "
                f"{MICRO_FRAMES}, and at least {2 * MICRO_FRAMES}"
            ]
        )
    return Preset(frames, height, width, fps, loops)


def _check_positive(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ConfigError([f"--{name.replace('_', '-')} {value}; expected at least 1"])


def _manifest(task: Task, seconds: float, measures: dict[str, object]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "task": task._identity(),
        "checkpoint": task.checkpoint,
        "video": {"name": task.path.name, **describe_file(task.path)},
        "poster": poster_of(task.path).name,
        "measures": measures,
        "seconds": round(seconds, 3),
        "made_with": _versions(),
        "made_unix_s": time.time(),
    }


def _versions() -> dict[str, str]:
    """Of the packages that take part, but for soractl where it is used from its folder alone."""
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
