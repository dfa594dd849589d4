"""Lines and JSON of `launch --rehearse`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soractl.errors import ExitCode
from soractl.estimate.rehearsals import Bucket, Rehearsal, file_of
from soractl.terminal import text
from soractl.terminal.table import Table

if TYPE_CHECKING:
    from trainer.data.buckets import Bucket as Shape

_COLUMNS = ("BUCKET", "BATCH", "S/STEP", "FIRST", "DATA", "ENCODERS", "PEAK", "LEFT", "NOTE")


def plan(
    stage: str, shapes: Sequence["Shape"], missing: Sequence[str]
) -> tuple[list[str | Table], dict[str, Any]]:
    """The rehearsal to come, as lines and for programs."""
    rows = [(shape.name, shape.batch_size, shape.tokens) for shape in shapes]
    last = [f"missing: {what}" for what in missing] or ["ready to rehearse"]
    buckets = [
        {"name": name, "batch_size": batch, "tokens": tokens} for name, batch, tokens in rows
    ]
    values = {"stage": stage, "missing": list(missing), "buckets": buckets}
    return ["", Table(("BUCKET", "BATCH", "TOKENS"), rows), "", *last], values


def lines(root: Path, found: Rehearsal) -> list[str | Table]:
    """A row a bucket, what all share, and settings to copy."""
    ranks = f"{text.count(found.world_size, 'rank')} on {text.count(len(found.nodes), 'node')}"
    rate, written = found.reduced_bytes_per_s, found.checkpoint_bytes
    shared = [
        ("ranks", f"{ranks}, {found.gpu or 'CPUs'}"),
        ("all-reduce", f"{text.size(rate)}/s a rank" if rate else "-"),
        ("checkpoint", _checkpoint(found) if written or found.checkpoint_fault else "-"),
        ("result", text.path(file_of(root, found.stage))),
    ]
    table = Table(_COLUMNS, [_row(bucket) for bucket in found.buckets], words=1)
    return [table, "", *text.pairs(shared), *_remedies(found)]


def one_line(bucket: Bucket) -> str:
    """The line of a bucket: its seconds and memory, or why it has none."""
    if bucket.seconds is None:
        return bucket.fault or "not measured"
    note = f"; fits with {_as_words(bucket)}" if bucket.fits_with else ""
    peak, left = _size(bucket.peak_bytes), _size(bucket.left_bytes)
    return f"{bucket.seconds:.2f} s/step, peak {peak}, {left} left{note}"


def exit_code(found: Rehearsal) -> ExitCode:
    """1 if a bucket did not end as the stage has it."""
    return ExitCode.FAILED if any(_needs_change(one) for one in found.buckets) else ExitCode.OK


def _row(bucket: Bucket) -> tuple[object, ...]:
    seconds = (bucket.seconds, bucket.cold_s)
    share = (
        None
        if bucket.encode_s is None or not bucket.seconds
        else f"{bucket.encode_s / bucket.seconds:.0%}"
    )
    note = bucket.fault or ""
    if bucket.fits_with:
        note = f"fits with {_as_words(bucket)}"
    return (
        *(bucket.name, bucket.batch_size, *(_s(one) for one in seconds), _s(bucket.data_s)),
        *(share or "-", _size(bucket.peak_bytes), _size(bucket.left_bytes), note),
    )


def _checkpoint(found: Rehearsal) -> str:
    if found.checkpoint_fault or not found.checkpoint_s:
        return str(found.checkpoint_fault)
    return (
        f"{text.size(found.checkpoint_bytes or 0)} written in {found.checkpoint_s:.1f} s, "
        f"training stands still for {found.checkpoint_stall_s or 0:.2f} s; removed again"
    )


def _remedies(found: Rehearsal) -> list[str]:
    """The settings with which all buckets fit, as options."""
    settings: dict[str, float] = {}
    for bucket in found.buckets:
        for name, value in bucket.fits_with.items():
            settings[name] = min(value, settings.get(name, value))
    words = " ".join(f"--set {name}={value}" for name, value in settings.items())
    unmet = [one.name for one in found.buckets if one.fault and not one.fits_with]
    return [
        *(["", f"to fit: {words}"] if words else []),
        *([f"did not end: {', '.join(unmet)}"] if unmet else []),
    ]


def _needs_change(bucket: Bucket) -> bool:
    return bool(bucket.fault or bucket.fits_with)


def _as_words(bucket: Bucket) -> str:
    return " ".join(f"--set {name}={value}" for name, value in bucket.fits_with.items())


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f}"


def _size(bytes_: int | None) -> str:
    return "-" if bytes_ is None else text.size(bytes_)
