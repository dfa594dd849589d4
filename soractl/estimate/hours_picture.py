"""A picture of where the GPU-hours of stages go, by bucket."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soractl.data.picture import COLOURS, check_output, save
from soractl.estimate.report import bucket_hours
from soractl.estimate.stage import StageEstimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_output", "draw", "write"]

_LARGEST = 12  # bars of a stage; what is left shares one
_BAR = 0.3  # inches


def write(estimates: Sequence[StageEstimate], path: Path) -> tuple[str, ...]:
    """Write the picture; notes say why there is none."""
    return save(draw(estimates), path).notes


def draw(estimates: Sequence[StageEstimate]) -> "Figure":
    """A panel a stage, a bar a bucket, the largest first, the part of VAE and T5 apart."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    bars = [_bars(one) for one in estimates]
    heights = [_BAR * len(own) + 0.7 for own in bars]
    figure = Figure(figsize=(8.5, sum(heights) + 0.5), layout="constrained")
    panels: Any = figure.subplots(len(bars), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, one, own in zip(panels, estimates, bars, strict=True):
        _panel(axis, one, own)
    panels[-1].set_xlabel("GPU-hours")
    figure.legend(
        [Patch(color=COLOURS[2]), Patch(color=COLOURS[5])],
        ["diffusion model", "VAE and T5"],
        loc="outside upper right",
        ncols=2,
        frameon=False,
    )
    return figure


def _bars(estimate: StageEstimate) -> list[tuple[str, float, float]]:
    """Name, GPU-hours of the model and of encoders, the largest first."""
    found: list[tuple[str, float, float]] = []
    for row, hours in zip(estimate.rows, bucket_hours(estimate), strict=True):
        encoders = 0.0 if estimate.cached else row.encoders_s
        share = encoders / (row.model_s + encoders)
        found.append((f"{row.name}, {row.batch_size}", hours * (1 - share), hours * share))
    found.sort(key=lambda bar: -(bar[1] + bar[2]))
    rest = found[_LARGEST:]
    if not rest:
        return found
    others = (sum(bar[1] for bar in rest), sum(bar[2] for bar in rest))
    return [*found[:_LARGEST], (f"{len(rest)} others", *others)]


def _panel(axis: Any, estimate: StageEstimate, bars: Sequence[tuple[str, float, float]]) -> None:
    places = range(len(bars))
    model, encoders = [bar[1] for bar in bars], [bar[2] for bar in bars]
    axis.barh(places, model, color=COLOURS[2], height=0.7)
    ends = axis.barh(places, encoders, left=model, color=COLOURS[5], height=0.7)
    total = sum(model) + sum(encoders)
    shares = [f"{(a + b) / total:.1%}" for a, b in zip(model, encoders, strict=True)]
    axis.bar_label(ends, shares, padding=4, fontsize=8)
    axis.set_yticks(places, [name for name, _, _ in bars], fontsize=8)
    axis.set_xlim(0, 1.12 * max(a + b for a, b in zip(model, encoders, strict=True)))
    axis.spines[["top", "right"]].set_visible(False)
    axis.invert_yaxis()
    hours = estimate.gpu_hours(cached=estimate.cached)
    axis.set_title(
        f"{estimate.stage}: {hours:,.0f} GPU-hours on {estimate.ranks} ranks, {total:,.0f} of them "
        f"at work\n{estimate.source or f'by rates of {estimate.gpu.name}'}",
        fontsize=10,
        loc="left",
    )
