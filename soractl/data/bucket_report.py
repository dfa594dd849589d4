"""Lines and JSON of `data buckets`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soractl.data.buckets import Epoch
from soractl.terminal import text
from soractl.terminal.table import Table

HEADERS = (
    *("RESOLUTION", "FRAMES", "CLIPS", "SHARE", "BATCH", "BATCHES", "REMAINDER", "TOKENS", "SHARE"),
)


def lines(epoch: Epoch, picture: Path | None) -> list[str | Table]:
    """A row for each resolution and length, dropped clips by reason, and the steps of the epoch."""
    return [
        Table(HEADERS, tuple(_rows(epoch))),
        *_empty_buckets(epoch),
        *("", *_dropped(epoch)),
        *_steps(epoch),
        *([f"picture: {picture}"] if picture and epoch.steps else []),
    ]


def as_json(epoch: Epoch, picture: Path | None) -> dict[str, Any]:
    """The same values for programs."""
    return {
        "stage": epoch.stage,
        "table": str(epoch.table),
        "picture": None if picture is None else str(picture),
        "clips": epoch.clips,
        "ranks": epoch.ranks,
        "steps": epoch.steps,
        "micro_batches": epoch.batches,
        "tokens": epoch.tokens,
        "buckets": [{**vars(row), "left_over": row.remainder} for row in epoch.rows],
        "fallen_out": epoch.dropped_by_reason,
        "balance_by_window": {str(window): share for window, share in epoch.balance.items()},
    }


def _rows(epoch: Epoch) -> Iterator[tuple[object, ...]]:
    for row in epoch.rows:
        if row.clips:
            yield (
                *(row.resolution, row.frames, row.clips, _share(row.clips, epoch.clips)),
                *(row.batch_size or "-", row.batches, row.remainder, _short(row.tokens)),
                _share(row.tokens, epoch.tokens),
            )


def _empty_buckets(epoch: Epoch) -> list[str]:
    empty = [f"{row.resolution}/{row.frames}" for row in epoch.rows if not row.clips]
    return [f"no clip in {', '.join(empty)}"] if empty else []


def _dropped(epoch: Epoch) -> list[str]:
    dropped = sum(epoch.dropped_by_reason.values())
    counts = [(f"  {count}", reason) for reason, count in epoch.dropped_by_reason.items() if count]
    first = f"{dropped} of {text.count(epoch.clips, 'clip')} are not trained on in this epoch"
    return [first, *(text.pairs(counts) if counts else [])]


def _steps(epoch: Epoch) -> list[str]:
    """Steps and balance of the epoch, or the reason why it has no step."""
    ranks = text.count(epoch.ranks, "rank")
    if not epoch.is_possible:
        return [f"the buckets of {epoch.stage} can hold no clip: each keeps 0 or has none"]
    if not epoch.steps:
        batches = text.count(epoch.batches, "full batch", "full batches")
        return [f"no step to train: only {batches} for {ranks}"]
    batches = text.count(epoch.batches, "micro batch", "micro batches")
    steps = text.count(epoch.steps, "step")
    return [
        *("", f"an epoch for {ranks}: {steps}, {batches}, {_short(epoch.tokens)} tokens"),
        *(
            f"balance.window = {window}: ranks work {100 * balance:.1f} % of a step's time"
            for window, balance in epoch.balance.items()
        ),
    ]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _short(number: float) -> str:
    """`950`, `12.3 k`, `4.56 M`, `1.2 G`."""
    for unit in ("", " k", " M", " G", " T"):
        if number < 1000 or unit == " T":
            break
        number /= 1000
    return f"{number:.3g}{unit}"
