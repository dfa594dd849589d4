"""Estimate of a stage over a table: steps, GPU-hours, memory and disk, before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from soractl.cluster.settings import load
from soractl.data.buckets import columns_of
from soractl.errors import SoractlError
from soractl.estimate import bucket as one_bucket
from soractl.estimate import measured
from soractl.estimate.rates import CAPTION_BYTES, GPUS, NETWORKS, GpuRates
from soractl.estimate.speeds import Speeds
from soractl.remote.nodes import find_nodes
from trainer.config import TrainConfig, load_stage

if TYPE_CHECKING:
    from trainer.data.batch_sampler import EpochPlan
    from trainer.data.buckets import Bucket

STAGES = tuple(f"stage{number}" for number in range(1, 8))
_LATENT_BYTES = 4 * 2  # four channels in bf16
_CHECKPOINT_BYTES = 18  # of a parameter: weights in bf16, master, two moments and average in fp32


@dataclass(frozen=True)
class BucketEstimate:
    """One resolution and length in an epoch."""

    name: str  # 240p/51
    batch_size: int
    batches: int  # micro batches of all ranks
    model_s: float  # of a micro batch
    encoders_s: float  # likewise, where features are not cached
    memory: float  # bytes that a rank holds at most
    measured: bool = False  # the seconds, and not by rates


@dataclass(frozen=True)
class StageEstimate:
    """A stage on so many GPUs."""

    stage: str
    gpu: GpuRates
    ranks: int
    cached: bool  # whether the stage trains on cached features
    epochs: int
    steps: int  # of an epoch, all ranks together
    last_step: int | None  # of the stage, where its settings say one
    tokens: int  # of an epoch
    cached_s: float  # of an epoch with cached features
    fresh_s: float  # of an epoch without
    rows: tuple[BucketEstimate, ...]
    latents: int  # bytes of one draw of all clips that are trained on
    captions: int  # bytes
    checkpoint: int  # bytes of one
    source: str | None = None  # of the measured seconds
    factor: float = 1.0  # by which rates are off where both are known; the other rows have it too

    @property
    def all_steps(self) -> int:
        """Of the stage."""
        return min(self.steps * self.epochs, self.last_step or self.steps * self.epochs)

    def wall_s(self, *, cached: bool) -> float:
        """Of the whole stage."""
        epoch = self.cached_s if cached else self.fresh_s
        return epoch * self.all_steps / max(1, self.steps)

    def gpu_hours(self, *, cached: bool) -> float:
        """Of the whole stage, on all ranks."""
        return self.wall_s(cached=cached) * self.ranks / 3600


def estimate(
    stage: str,
    table: Path,
    ranks: int,
    gpu: GpuRates,
    overrides: Sequence[str] = (),
    runs: Path | None = None,
) -> StageEstimate:
    """A stage over a table, from the first epoch as training would plan it.

    With `runs`, seconds are those that a run there or a rehearsal measured, where they did.
    SoractlError if no step comes of it. Waiting for data, saves and other nodes is not counted
    where seconds come from rates.
    """
    return estimate_of(stage, load_stage(stage, tuple(overrides)).config, table, ranks, gpu, runs)


def estimate_of(
    stage: str, settings: TrainConfig, table: Path, ranks: int, gpu: GpuRates, runs: Path | None
) -> StageEstimate:
    """The same for settings that are read already."""
    from trainer.data.batch_sampler import plan_epoch
    from trainer.data.buckets import assign_epoch

    assignment = assign_epoch(columns_of(table), settings, 0)
    plan = plan_epoch(assignment, world_size=ranks, window=settings.balance.window)
    steps = -(-plan.steps // settings.optim.accumulate)
    if not steps:
        raise SoractlError(
            f"{stage}: an epoch of {table} has no step for {ranks} ranks",
            hint=f"soractl data buckets {stage} {table} says where its clips go",
        )
    found = measured.find(runs, stage, settings) if runs else None
    speeds = Speeds.of(plan.buckets, settings.model, gpu, found)
    model = [speeds.model_s(bucket) for bucket in plan.buckets]
    encoders = [speeds.encoders_s(bucket) for bucket in plan.buckets]
    return StageEstimate(
        stage=stage,
        gpu=gpu,
        ranks=ranks,
        cached=settings.data.features is not None,
        epochs=settings.epochs,
        steps=steps,
        last_step=settings.trainer.max_steps,
        tokens=_tokens(plan),
        cached_s=_epoch_s(plan, model),
        fresh_s=_epoch_s(plan, [sum(pair) for pair in zip(model, encoders, strict=True)]),
        rows=_rows(plan, settings, ranks, speeds),
        latents=sum(
            int(count) * bucket.latent_frames * (bucket.height // 8) * (bucket.width // 8)
            for bucket, count in zip(assignment.buckets, assignment.counts, strict=True)
        )
        * _LATENT_BYTES,
        captions=int(assignment.counts.sum()) * CAPTION_BYTES,
        checkpoint=checkpoint_bytes(settings),
        source=found.source if found else None,
        factor=speeds.factor,
    )


def checkpoint_bytes(settings: TrainConfig) -> int:
    """Bytes of one checkpoint."""
    return NETWORKS[settings.model.arch].parameters * _CHECKPOINT_BYTES


def gpu_and_runs(name: str | None, runs: str) -> tuple[GpuRates, Path | None]:
    """The rates of a kind of GPU; where none is named, also the runs that may know better."""
    return GPUS[name or "h100"], None if name else Path(runs)


def price_of(hostfile: str | None, environ: Mapping[str, str]) -> float | None:
    """`price_per_gpu_hour` of the cluster's file."""
    cluster, _ = load(find_nodes(hostfile, environ=environ).hostfile)
    return cluster.price_per_gpu_hour


def _tokens(plan: "EpochPlan") -> int:
    import numpy

    tokens = numpy.array([bucket.tokens for bucket in plan.buckets])
    return int(tokens[plan.bucket_of[plan.order]].sum())


def _epoch_s(plan: "EpochPlan", seconds: Sequence[float]) -> float:
    """A step takes as long as its slowest rank."""
    import numpy

    return float(numpy.asarray(seconds)[plan.bucket_of[plan.order]].max(axis=1).sum())


def _rows(
    plan: "EpochPlan", settings: TrainConfig, ranks: int, speeds: Speeds
) -> tuple[BucketEstimate, ...]:
    """Those with batches; of a resolution's aspect ratios the one that most clips have."""
    import numpy

    counts = numpy.bincount(plan.bucket_of, minlength=len(plan.buckets))
    groups: dict[str, list[tuple[int, Bucket]]] = {}
    for count, bucket in zip(counts.tolist(), plan.buckets, strict=True):
        if count:
            groups.setdefault(f"{bucket.resolution}/{bucket.frames}", []).append((count, bucket))
    rows = []
    for name, members in groups.items():
        usual = max(members, key=lambda pair: pair[0])[1]
        reckoned = one_bucket.memory(
            usual,
            settings.model,
            ranks=ranks,
            cached=settings.data.features is not None,
        )
        rows.append(
            BucketEstimate(
                name=name,
                batch_size=usual.batch_size,
                batches=sum(count for count, _ in members),
                model_s=speeds.model_s(usual),
                encoders_s=speeds.encoders_s(usual),
                memory=speeds.peak_bytes(usual) or reckoned,
                measured=speeds.is_measured(usual),
            )
        )
    return tuple(rows)
