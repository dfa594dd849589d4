"""Lines and JSON of `estimate`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from soractl.estimate.rates import CAPTION_TOKENS
from soractl.estimate.stage import StageEstimate
from soractl.terminal import text
from soractl.terminal.table import Table

_BUCKETS = (
    *("BUCKET", "BATCH", "BATCHES", "MODEL S", "VAE+T5 S", "FROM", "PEAK", "GPU-HOURS", "SHARE"),
    "",
)
_STAGES = ("STAGE", "EPOCHS", "STEPS", "TOKENS", "CACHED", "GPU-HOURS", "FRESH", "GPU-HOURS")
_BAR = 24


def lines(estimate: StageEstimate, price: float | None) -> list[str | Table]:
    """Buckets of an epoch, then the stage."""
    days = [
        (
            f"  {name}",
            f"{text.duration(estimate.wall_s(cached=cached))}, "
            f"{estimate.gpu_hours(cached=cached):,.0f} GPU-hours{_cost(estimate, cached, price)}",
        )
        for name, cached in (("features cached", True), ("features fresh", False))
    ]
    stage = (
        f"{text.count(estimate.epochs, 'epoch')} on "
        f"{text.count(estimate.ranks, 'rank' if estimate.source else estimate.gpu.name)}"
    )
    tokens = f"{estimate.tokens / 1e9:.2f} G tokens an epoch"
    return [
        Table(_BUCKETS, _bucket_rows(estimate), has_bar=True),
        "",
        f"{estimate.stage}, {stage}: {text.count(estimate.all_steps, 'step')}, {tokens}",
        *text.pairs(days),
        f"a checkpoint has {text.size(estimate.checkpoint)}; cached features have "
        f"{text.size(estimate.latents)} of latents a draw "
        f"and {text.size(estimate.captions)} of captions",
        *assumptions(estimate),
    ]


def stages_lines(estimates: Sequence[StageEstimate], price: float | None) -> list[str | Table]:
    """A row a stage, with cached features and then without, and the sum."""
    rows = [
        (
            *(one.stage, one.epochs, one.all_steps, f"{one.tokens * one.epochs / 1e9:.1f} G"),
            *(
                cell
                for cached in (True, False)
                for cell in (
                    text.duration(one.wall_s(cached=cached)),
                    f"{one.gpu_hours(cached=cached):,.0f}",
                )
            ),
        )
        for one in estimates
    ]
    first = sum(one.gpu_hours(cached=True) for one in estimates[:3])
    totals = [("stages 1 to 3", f"{first:,.0f} GPU-hours cached; the reference's took 18,000")]
    for name, cached in (("features cached", True), ("features fresh", False)):
        hours = sum(one.gpu_hours(cached=cached) for one in estimates)
        cost = "" if price is None else f", {hours * price:,.0f} at {price:g} a GPU-hour"
        totals.append((name, f"{hours:,.0f} GPU-hours{cost}"))
    return [Table(_STAGES, rows), "", *text.pairs(totals), *assumptions(estimates[0])]


def one_line(estimate: StageEstimate, price: float | None) -> str:
    """Steps, time, GPU-hours and cost of the stage, and what they rest on."""
    source = estimate.source or f"rates of {estimate.gpu.measured}"
    return (
        f"{text.count(estimate.all_steps, 'step')}, "
        f"{text.duration(estimate.wall_s(cached=estimate.cached))}, "
        f"{estimate.gpu_hours(cached=estimate.cached):,.1f} GPU-hours"
        f"{_cost(estimate, estimate.cached, price)} ({source})"
    )


def bucket_hours(estimate: StageEstimate) -> list[float]:
    """GPU-hours of each row in the stage, as it is set: with cached features or without."""
    scale = estimate.all_steps / max(1, estimate.steps) / 3600
    return [
        row.batches * (row.model_s + (0 if estimate.cached else row.encoders_s)) * scale
        for row in estimate.rows
    ]


def assumptions(estimate: StageEstimate) -> list[str]:
    """Assumptions and rates behind the numbers."""
    rest = (
        f"captions of {CAPTION_TOKENS} tokens; every epoch as the first; no waiting for data, saves"
        " or other nodes"
    )
    if estimate.source is None:
        return [f"rates: {estimate.gpu.measured}; {rest}"]
    own = sum(row.measured for row in estimate.rows)
    lines = [f"measured: {estimate.source}, {own} of {text.count(len(estimate.rows), 'bucket')}"]
    if own < len(estimate.rows):
        lines.append(f"rates: {estimate.gpu.measured}, times {estimate.factor:.2f}; {rest}")
    return lines


def as_json(estimate: StageEstimate, price: float | None) -> dict[str, Any]:
    """The same for programs; seconds and bytes."""
    hours = {
        name: estimate.gpu_hours(cached=cached)
        for name, cached in (("cached", True), ("fresh", False))
    }
    return {
        **dataclasses.asdict(estimate),
        "all_steps": estimate.all_steps,
        "wall_s": {
            "cached": estimate.wall_s(cached=True),
            "fresh": estimate.wall_s(cached=False),
        },
        "gpu_hours": hours,
        "cost": None if price is None else {name: price * one for name, one in hours.items()},
    }


def _bucket_rows(estimate: StageEstimate) -> list[tuple[object, ...]]:
    hours = bucket_hours(estimate)
    total = sum(hours)
    return [
        (
            *(row.name, row.batch_size, row.batches, f"{row.model_s:.2f}", f"{row.encoders_s:.2f}"),
            *("measured" if row.measured else "rates", text.size(row.memory)),
            *(f"{own:,.1f}", f"{own / total:.1%}"),
            "#" * round(_BAR * own / max(hours)),
        )
        for row, own in zip(estimate.rows, hours, strict=True)
    ]


def _cost(estimate: StageEstimate, cached: bool, price: float | None) -> str:
    if price is None:
        return ""
    return f", {estimate.gpu_hours(cached=cached) * price:,.0f} at {price:g} a GPU-hour"
