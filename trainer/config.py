"""The settings of a stage, and how its TOML file becomes one frozen TrainConfig."""

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer import stage_files
from trainer.settings import (
    ConfigError,
    also_named,
    dump,
    parse_override,
    read_toml,
    resolve,
    settings,
    without_nulls,
)

Resolution = Literal[
    "144p",
    "256",
    "240p",
    "360p",
    "512",
    "480p",
    "720p",
    "1024",
    "1080p",
    "2k",
    "2048",
    "2880",
    "4k",
]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The diffusion transformer."""

    arch: Literal["STDiT3-XL/2", "STDiT3-3B/2", "STDiT3-smoke"]
    qk_norm: bool
    freeze_y_embedder: bool
    caption_dropout: float  # share of captions that are replaced by the null caption
    grad_checkpoint: Literal["none", "every_block"] | int  # or every n-th block
    # Video tokens of a pass that recomputes nothing. A micro batch of more goes through the model
    # in chunks of about so many; what a chunk has more is recomputed as `grad_checkpoint` says.
    # 0: no chunks.
    tokens_at_once: int = 0  # older runs have no such setting


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """The video VAE; without `weights` they are random."""

    arch: Literal["OpenSoraVAE_V1_2", "smoke"]
    micro_frame_size: int  # frames that the temporal part sees at once
    micro_batch_size: int  # frames of 360p that the spatial part sees at once, or as many pixels
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """The frozen caption encoder; without `weights` they are random."""

    arch: Literal["t5-v1_1-xxl", "smoke"]
    max_length: int  # tokens
    clean_captions: bool
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Rectified flow."""

    num_timesteps: int
    sample_method: Literal["uniform", "logit-normal"]
    use_discrete_timesteps: bool = False  # whole ones; older runs have no such setting
    loc: float
    scale: float
    use_timestep_transform: bool
    transform_scale: float
    sampling_steps: int
    cfg_scale: float


@dataclass(frozen=True, kw_only=True)
class MasksConfig:
    """Share of the clips that get each kind of frame mask; what is left stays unmasked."""

    random: float
    interpolate: float = also_named("intepolate")  # as the reference's files spell it
    quarter_random: float
    quarter_head: float
    quarter_tail: float
    quarter_head_tail: float
    image_random: float
    image_head: float
    image_tail: float
    image_head_tail: float
    identity: float | None = None  # unmasked; if it is given, all shares add up to 1


@dataclass(frozen=True, kw_only=True)
class BucketsConfig:
    """Buckets: resolution and length of the clips that are trained.

    `frames` names the columns. A `batch_size` row holds clips per GPU and step. A `keep` row holds
    the chance that a clip which fits here stays here; a pair is [at this resolution, at this
    length], drawn in the other order. A row may be short: a missing column is no bucket, so a long
    clip is cut to the longest column there is, while 0.0 is a bucket that takes nothing, so the
    clip tries a lower resolution. A gap, a column before others that is no bucket either, is
    written [0.0, 0.0].
    """

    frames: tuple[int, ...]
    batch_size: Mapping[Resolution, tuple[int, ...]]
    keep: Mapping[Resolution, tuple[float | tuple[float, float], ...]]


@dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """Order of the micro batches, so that ranks wait less for the slowest."""

    window: int  # steps whose micro batches are sorted by cost together; 0 = independent order
    measured: bool  # cost is the time that a bucket took in the epochs before; else by its FLOPs


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The clips and how they are read."""

    path: str  # CSV or Parquet
    workers: int  # processes a rank that decode clips; 0 = the rank itself
    prefetch: int  # micro batches read ahead
    stuck_after_s: float  # a worker that reads one clip for longer is replaced
    features: str | None = None  # a folder of cached features; else they are made anew


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, its learning rate and the averaged weights."""

    lr: float
    schedule: Literal["warmup", "one_cycle"]
    warmup_steps: int
    cooldown_steps: int
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    grad_clip: float  # 0 = off
    accumulate: int  # micro batches of a rank whose gradients make one step
    ema_decay: float
    min_lr: float | None = None
    max_lr: float | None = None
    anneal: Literal["cos", "linear"] | None = None


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Steps left out on all ranks; one whose gradient is not finite always is."""

    spike_factor: float  # a gradient norm above this many times the usual is a spike; 0 = none is
    most_skips: int  # steps left out in a row at which the run saves and ends


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """The loss on the same clips, noise and timesteps each time."""

    every_steps: int  # 0 = never
    clips: int  # the first of the table that are in a bucket
    path: str | None = None  # CSV or Parquet; else data.path


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Settings of the trainer's processes."""

    dtype: Literal["bf16", "fp32"]
    compile: bool
    collective_timeout_s: float
    max_steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Times of checkpoints, besides the end of an epoch, and the ones that stay."""

    every_steps: int  # 0 = never
    keep_last: int  # 0 = all
    keep_every_steps: int  # keep these for ever too; 0 = none
    every_minutes: float | None = None


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Values that are logged, and the places they go to."""

    every_steps: int
    tensorboard: bool
    wandb: bool
    wandb_project: str


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that the trainer needs to know about a stage."""

    seed: int
    epochs: int
    model: ModelConfig
    vae: VaeConfig
    text_encoder: TextEncoderConfig
    flow: FlowConfig
    masks: MasksConfig
    buckets: BucketsConfig
    balance: BalanceConfig
    data: DataConfig
    optim: OptimConfig
    guard: GuardConfig
    validation: ValidationConfig
    trainer: TrainerConfig
    checkpoint: CheckpointConfig
    log: LogConfig
    after: str | None = None  # the stage whose newest checkpoint gives the first weights
    init_from: str | None = None  # or the file or folder that does


# What a type alone does not say, where training would fail later or quietly do nothing.
_RANGES = {
    "seed": (0, 2**63 - 1),
    "epochs": (1, math.inf),
    "model.caption_dropout": (0, 1),
    "model.grad_checkpoint": (1, math.inf),
    "model.tokens_at_once": (0, math.inf),
    "vae.micro_frame_size": (1, math.inf),
    "vae.micro_batch_size": (1, math.inf),
    "text_encoder.max_length": (1, math.inf),
    "flow.num_timesteps": (1, math.inf),
    "flow.sampling_steps": (1, math.inf),
    "balance.window": (0, math.inf),
    "data.workers": (0, math.inf),
    "data.prefetch": (1, math.inf),
    "data.stuck_after_s": (0, math.inf),
    "optim.lr": (0, math.inf),
    "optim.min_lr": (0, math.inf),
    "optim.max_lr": (0, math.inf),
    "optim.weight_decay": (0, math.inf),
    "optim.eps": (0, math.inf),
    "optim.warmup_steps": (0, math.inf),
    "optim.cooldown_steps": (0, math.inf),
    "optim.grad_clip": (0, math.inf),
    "optim.accumulate": (1, math.inf),
    "optim.ema_decay": (0, 1),
    "guard.spike_factor": (0, math.inf),
    "guard.most_skips": (1, math.inf),
    "validation.every_steps": (0, math.inf),
    "validation.clips": (1, math.inf),
    "trainer.collective_timeout_s": (1, math.inf),
    "trainer.max_steps": (1, math.inf),
    "checkpoint.every_steps": (0, math.inf),
    "checkpoint.every_minutes": (0, math.inf),
    "checkpoint.keep_last": (0, math.inf),
    "checkpoint.keep_every_steps": (0, math.inf),
    "log.every_steps": (1, math.inf),
}
_ABOVE_ZERO = ("flow.scale", "flow.transform_scale")


# Rows of the null caption, which stands in for captions token by token.
CAPTION_TOKENS = {"STDiT3-XL/2": 300, "STDiT3-3B/2": 300, "STDiT3-smoke": 32}


@dataclass(frozen=True)
class Stage:
    """A resolved stage: its settings and, for each, where its value came from."""

    name: str
    config: TrainConfig
    origins: Mapping[str, str]  # "optim.lr" -> "configs/parts/base.toml"


def load_stage(name: str, overrides: Sequence[str] = (), folder: Path | None = None) -> Stage:
    """Parts left to right, the stage, then `section.key=value`; ConfigError names every fault."""
    searched = (folder,) if folder else stage_files.folders()
    path = find_stage(name, searched)
    stage = read_toml(path)
    part_files = _part_files(path, stage.pop("extends", []), searched)
    layers = [(str(file), read_toml(file)) for file in part_files] + [(str(path), stage)]
    layers += [(f"--set {text}", parse_override(text)) for text in overrides]
    config, origins = resolve(TrainConfig, layers)
    if faults := check_consistency(config):
        raise ConfigError([f"{path}: {fault}" for fault in faults])
    return Stage(name, config, origins)


def find_stage(name: str, searched: Sequence[Path] = ()) -> Path:
    """The file of a stage in these folders, else in those of `stage_files`; ConfigError if none."""
    searched = searched or stage_files.folders()
    files = stage_files.stage_files(searched)
    if name in files:
        return files[name]
    kept = [
        f"{folder}/ has: {', '.join(stem for stem, file in files.items() if file.parent == folder)}"
        for folder in searched
    ]
    near = difflib.get_close_matches(name, files, 1)
    question = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError([f"no stage named {name}; {'; '.join(kept)}{question}"])


def _part_files(path: Path, parts: object, searched: Sequence[Path]) -> list[Path]:
    """The files that `extends` names, in its order."""
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ConfigError([f"{path}: extends = {parts!r}; expected a list of names in parts/"])
    found = {part: stage_files.find_part(part, searched) for part in parts}
    if missing := [part for part, file in found.items() if file is None]:
        places = " or ".join(f"{folder}/{stage_files.PARTS}/" for folder in searched)
        raise ConfigError([f"{path}: extends {part}, which is not in {places}" for part in missing])
    return [file for part in parts if (file := found[part])]


def read(path: Path) -> TrainConfig:
    """A run's `config.json`, checked like any other layer."""
    values = json.loads(path.read_text())
    return resolve(TrainConfig, [(str(path), without_nulls(values))])[0]


def check_consistency(config: TrainConfig) -> list[str]:
    """The rules across settings; returns what is wrong."""
    faults = []
    optim, buckets = config.optim, config.buckets
    if config.after and config.init_from:
        faults.append("`after` and `init_from` both say where the weights come from; keep one")
    if optim.schedule == "one_cycle":
        unset = [key for key in ("min_lr", "max_lr", "anneal") if getattr(optim, key) is None]
        faults += [f"optim.schedule = 'one_cycle' needs optim.{key}" for key in unset]
    if config.text_encoder.arch != "smoke" and not config.text_encoder.weights:
        faults.append(f"text_encoder.arch = '{config.text_encoder.arch}' needs weights")
    if (tokens := config.text_encoder.max_length) != (takes := CAPTION_TOKENS[config.model.arch]):
        faults.append(
            f"text_encoder.max_length = {tokens}; model.arch = '{config.model.arch}' takes {takes}"
        )
    if config.flow.use_discrete_timesteps and config.flow.sample_method != "uniform":
        faults.append(
            "flow.use_discrete_timesteps = True needs flow.sample_method = 'uniform', not "
            f"'{config.flow.sample_method}'"
        )
    faults += _mask_faults(config.masks)
    faults += _range_faults(config)
    frames = list(buckets.frames)
    if not frames or frames != sorted({*frames}) or frames[0] < 1:
        faults.append(f"buckets.frames = {frames}; expected rising numbers from 1 on")
    if not any(buckets.keep.values()):
        faults.append("buckets.keep has no bucket, so no clip would be trained on")
    for resolution, row in buckets.keep.items():
        faults += _bucket_faults(buckets, resolution, row)
    return faults


def _mask_faults(masks: MasksConfig) -> Iterator[str]:
    shares = {key: share for key, share in dump(masks).items() if share is not None}
    for key, share in shares.items():
        if not 0 <= share <= 1:
            yield f"masks.{key} = {share}; expected 0 to 1"
    total = sum(shares.values())
    if total > 1 + 1e-6:
        yield f"the shares of masks add up to {total:g}; at most 1 is possible"
    elif masks.identity is not None and total < 1 - 1e-6:
        yield f"the shares of masks, identity among them, add up to {total:g}; expected 1"


def _range_faults(config: TrainConfig) -> Iterator[str]:
    for key, value in settings(config).items():
        if not _is_finite(value):
            yield f"{key} = {value}; expected finite numbers"
        elif isinstance(value, int | float):
            least, most = _RANGES.get(key, (-math.inf, math.inf))
            if not least <= value <= most:
                expected = f"at least {least}" if most == math.inf else f"{least} to {most}"
                yield f"{key} = {value}; expected {expected}"
            if key in _ABOVE_ZERO and value <= 0:
                yield f"{key} = {value}; expected more than 0"
    if not all(0 <= beta < 1 for beta in config.optim.betas):
        yield f"optim.betas = {list(config.optim.betas)}; expected numbers from 0 to below 1"


def _is_finite(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _bucket_faults(
    buckets: BucketsConfig, resolution: Resolution, row: Sequence[float | tuple[float, float]]
) -> Iterator[str]:
    name = f"buckets.keep.{resolution}"
    if len(row) > len(buckets.frames):
        yield f"{name} has {len(row)} columns; buckets.frames has {len(buckets.frames)}"
    sizes = buckets.batch_size.get(resolution, ())
    for frames, keep, size in zip(buckets.frames, row, (*sizes, *[0] * len(row)), strict=False):
        chances = keep if isinstance(keep, tuple) else (keep,)
        if not all(0 <= chance <= 1 for chance in chances):
            yield f"{name} at {frames} frames = {keep}; expected 0 to 1"
        if chances[0] > 0 and size < 1:
            yield f"{name} keeps clips at {frames} frames without a buckets.batch_size there"
        if frames == 1 and len(chances) == 2:
            yield f"{name} = {keep} for images; expected one number"
