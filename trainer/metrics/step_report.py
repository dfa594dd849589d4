"""Reports on the steps between two log lines: one a rank, and the summary of all ranks."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer import phases
from trainer.step import MicroResult, StepResult

BANDS = 5  # of timesteps, equally wide


@dataclass
class Means:
    """Sums and counts by name; the seconds of a rate are its count."""

    sums: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, value: float, count: float = 1) -> None:
        """Take in a value, or the sum of several."""
        self.sums[name] += value  # type: ignore[assignment]  # typeshed knows whole numbers only
        self.counts[name] += count  # type: ignore[assignment]  # Counter is typed for int alone

    def update(self, other: "Means") -> None:
        """Take in what another has."""
        self.sums.update(other.sums)
        self.counts.update(other.counts)

    @property
    def values(self) -> dict[str, float]:
        """The mean by name."""
        return {name: self.sums[name] / count for name, count in self.counts.items() if count}


@dataclass(frozen=True)
class Report:
    """The steps of one rank."""

    losses: list[float]  # of its steps; NaN for one without clips
    grad_norms: list[float]  # of the steps, over all ranks
    work: list[Counter[str]]  # of its steps: FLOPs by resolution and length
    means: Means  # by the names of metrics
    clips: int
    tokens: int  # of latents
    flops: int  # of the diffusion model
    own_s: list[float]  # of each micro step, in which it waited for no other rank
    buckets: Means  # seconds of a micro batch, by the bucket's name; without each one's first


def report(
    steps: Sequence[StepResult],
    seconds: Sequence[Mapping[str, float]],
    num_timesteps: int,
    seen: set[str],
) -> Report:
    """One rank's, of its steps and the phases of their micro steps; waits for the device.

    `seen` are the buckets whose first micro batch is over, which takes longer; they are added to.
    """
    micro = [one for step in steps for one in step.micro]
    means, buckets = Means(), Means()
    for one, spans in zip(micro, seconds, strict=True):
        bucket, group = one.bucket, _group(one)
        work = sum(spans[phase] for phase in ("encode", "forward", "backward"))
        means.add(f"time/bucket/{group}_s", work)
        if bucket.name in seen:
            buckets.add(bucket.name, work)
        seen.add(bucket.name)
        if one.clips:
            losses, t = one.losses.tolist(), one.t.tolist()
            means.add(f"loss/bucket/{group}", sum(losses), len(losses))
            means.add(f"speed/bucket/{group}_tokens_per_s", bucket.tokens, work)
            for loss, timestep in zip(losses, t, strict=True):
                means.add(band_name(timestep / num_timesteps), loss)
    for phase in phases.ALL:
        means.add(f"time/{phase}_s", sum(spans.get(phase, 0) for spans in seconds), len(steps))
    return Report(
        losses=[step.loss.item() for step in steps],
        grad_norms=[step.grad_norm.item() for step in steps],
        work=[_work(step) for step in steps],
        means=means,
        clips=sum(one.clips for one in micro),
        tokens=sum(one.bucket.tokens for one in micro if one.clips),
        flops=sum(one.flops for one in micro),
        own_s=[sum(spans[phase] for phase in phases.OWN) for spans in seconds],
        buckets=buckets,
    )


def summary(reports: Sequence[Report], elapsed_s: float, peak: float | None) -> dict[str, Any]:
    """All ranks' reports as metrics; `peak` are the FLOP/s of a rank's device."""
    losses = np.array([one.losses for one in reports])  # [ranks, steps]
    own = np.array([one.own_s for one in reports])  # [ranks, micro steps]
    ranks, steps = losses.shape
    of_rank = own.sum(axis=1) / steps
    means = Means()
    for one in reports:
        means.update(one.means)
    means.update(_grad_norms(reports))
    speed = {
        "speed/tokens_per_s": sum(one.tokens for one in reports) / elapsed_s,
        "speed/tflops_per_rank": sum(one.flops for one in reports) / elapsed_s / ranks / 1e12,
    }
    if peak:
        speed["speed/mfu"] = speed["speed/tflops_per_rank"] * 1e12 / peak
    return {
        "loss": _mean_of_finite(losses[:, -1]),
        "avg_loss": _mean_of_finite(losses),
        "s_per_step": elapsed_s / steps,
        "clips_per_s": sum(one.clips for one in reports) / elapsed_s,
        **speed,
        **dict(sorted(means.values.items())),
        "time/wait_s": float((own.max(axis=0) - own).sum()) / ranks / steps,
        "ranks/mean_s": float(of_rank.mean()),
        "ranks/slowest_s": float(of_rank.max()),
        "ranks/slowest": int(of_rank.argmax()),
    }


def band_name(share: float) -> str:
    """`loss/t/0.0-0.2`, for a timestep of this share of the noise."""
    band = min(BANDS - 1, int(share * BANDS))
    return f"loss/t/{band / BANDS:.1f}-{(band + 1) / BANDS:.1f}"


def _mean_of_finite(losses: NDArray[np.float64]) -> float:
    """Steps without clips have no loss, and one that is left out must not hide the others'."""
    finite = losses[np.isfinite(losses)]
    return float(finite.mean()) if finite.size else math.nan


def _work(step: StepResult) -> Counter[str]:
    work: Counter[str] = Counter()
    for one in step.micro:
        work[_group(one)] += one.flops
    return work


def _grad_norms(reports: Sequence[Report]) -> Means:
    """Each step's norm counts for the resolution and length that had most of the step's work.

    A step has one gradient, of all its micro batches; sorted by cost, most are of one bucket.
    """
    means = Means()
    works = zip(*(one.work for one in reports), strict=True)
    for norm, of_ranks in zip(reports[0].grad_norms, works, strict=True):
        if math.isfinite(norm):  # else the guard counts it, and it would hide all others
            work: Counter[str] = sum(of_ranks, Counter())
            means.add(f"grad_norm/bucket/{max(sorted(work), key=work.__getitem__)}", norm)
    return means


def _group(one: MicroResult) -> str:
    return f"{one.bucket.resolution}-{one.bucket.frames}"
