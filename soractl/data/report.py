"""Lines and JSON of `data info`, `filter`, `check`, `merge`, `encode` and `buckets`."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from soractl.data.buckets import Epoch
from soractl.data.check import Checked
from soractl.data.encode import Encoded, EncodePlan
from soractl.data.filter import Filtered
from soractl.data.info import Info
from soractl.data.merge import Merged
from soractl.errors import INTERRUPTED
from soractl.terminal import text
from soractl.terminal.table import Table

MOST_REASONS = 10
MOST_CLIPS = 5
ONE_OF = {"text": "caption", "video": "clip"}
AGAIN = "the same command continues with what is left"
BUCKET_COLUMNS = (
    *("RESOLUTION", "FRAMES", "CLIPS", "SHARE", "BATCH", "BATCHES", "REMAINDER", "TOKENS", "SHARE"),
)


def info_lines(info: Info, picture: Path | None) -> list[str]:
    """Reasons of failures, repeated paths, wrong headers, and the counts with the files."""
    if info.lost:
        done = text.count(len(info.table) + len(info.failed), "clip")
        return [f"{info.lost} after {done}; the same command continues from there"]
    rows = text.count(info.repeated, "row")
    counts = f"{text.count(len(info.table), 'clip')} measured, {len(info.failed)} failed"
    return [
        *_reasons(info.failed["reason"]),
        *([f"{rows} with a path that another row has"] if info.repeated else []),
        *_wrong_headers(info),
        f"{counts}: {_files(info.written, info.written_failures, picture)}",
    ]


def info_json(info: Info, picture: Path | None) -> dict[str, Any]:
    """The same values for programs."""
    return {
        "out": _path(info.written),
        "failures": _path(info.written_failures),
        "picture": _path(picture),
        "clips": len(info.table),
        "failed": len(info.failed),
        "repeated": info.repeated,
        "reasons": _counted(info.failed["reason"]),
        "header_differs": info.header_frames.to_dict("records"),
        "error": str(info.lost) if info.lost else None,
    }


def filter_lines(filtered: Filtered, picture: Path | None) -> list[str | Table]:
    """Dropped rows by reason, and the number of kept ones with the files."""
    counts = [(count, reason) for reason, count in filtered.counts.items()]
    kept = f"{len(filtered.after)} of {text.count(len(filtered.before), 'row')} kept"
    files = _files(filtered.written, filtered.written_dropped, picture)
    missing = "" if filtered.written else f"; {filtered.options.out} is not written"
    return [Table(("ROWS", "DROPPED FOR"), counts, words=1), f"{kept}: {files}{missing}"]


def filter_json(filtered: Filtered, picture: Path | None) -> dict[str, Any]:
    """The same values for programs."""
    return {
        "out": _path(filtered.written),
        "drops": _path(filtered.written_dropped),
        "picture": _path(picture),
        "rows": len(filtered.before),
        "kept": len(filtered.after),
        "dropped": filtered.counts,
    }


def check_lines(checked: Checked, picture: Path | None) -> list[str]:
    """Reasons, the first broken files, lost nodes, and the counts with the files."""
    counts = f"{checked.healthy_clips} healthy, {len(checked.failed)} failed"
    files = _files(checked.written, checked.options.journal, picture)
    lost = {node: fault for node, fault in checked.lost.items() if fault != INTERRUPTED}
    return [
        *_reasons(entry["reason"] for entry in checked.failed),
        *_first(
            [f"{printable(entry['path'])}: {entry['reason']}" for entry in checked.failed],
            f" in {checked.options.journal}",
        ),
        *(f"{node} was given up: {fault}" for node, fault in lost.items()),
        f"{counts}, {checked.left} not checked; continue with --resume"
        if checked.left
        else f"{counts}: {files}",
    ]


def check_json(checked: Checked, picture: Path | None) -> dict[str, Any]:
    """The same values for programs."""
    return {
        "out": _path(checked.written),
        "job_log": str(checked.options.journal),
        "picture": _path(picture),
        "nodes": checked.source.origin,
        "healthy": checked.healthy_clips,
        "failed": [{"path": e["path"], "reason": e["reason"]} for e in checked.failed],
        "not_checked": checked.left,
        "lost_nodes": {node: str(fault) for node, fault in checked.lost.items()},
    }


def merge_lines(merged: Merged, picture: Path | None) -> list[str | Table]:
    """A row for each input table, dropped columns, values that training needs and nobody has."""
    inputs = [(one.path, one.rows, one.repeated) for one in merged.inputs]
    rows: list[str | Table] = [Table(("TABLE", "ROWS", "REPEATED"), inputs)]
    if merged.dropped_columns:
        rows.append(f"columns that not all tables have: {', '.join(merged.dropped_columns)}")
    rows += [f"{text.count(n, 'row')} without {name}" for name, n in merged.incomplete.items()]
    if merged.incomplete.keys() - {"text"}:
        rows.append(f"hint: soractl data info {merged.out} --out OUT measures them")
    return [*rows, f"{text.count(len(merged.table), 'row')}: {_files(merged.out, picture)}"]


def merge_json(merged: Merged, picture: Path | None) -> dict[str, Any]:
    """The same values for programs."""
    return {
        "out": str(merged.out),
        "picture": _path(picture),
        "rows": len(merged.table),
        "tables": [
            {"path": str(one.path), "rows": one.rows, "repeated": one.repeated}
            for one in merged.inputs
        ],
        "dropped_columns": list(merged.dropped_columns),
        "rows_without": merged.incomplete,
    }


def features_lines(plan: EncodePlan) -> list[str | Table]:
    """A row for each kind of features, and the bytes to write beside the free ones."""
    rows = [
        (f"{ONE_OF[one.kind]}s", one.clips, one.variants, text.size(one.bytes), one.done_clips)
        for one in plan.estimates
    ]
    where = f"{plan.options.out} has {text.size(plan.free_bytes)} free"
    ranks = f"{text.count(plan.ranks, 'rank')} on {text.count(len(plan.requests), 'node')}"
    return [
        Table(("FEATURES", "NUMBER", "VARIANTS", "SIZE", "DONE"), rows),
        f"about {text.size(plan.bytes_left)} to write by {ranks}; {where}",
    ]


def features_json(plan: EncodePlan) -> dict[str, Any]:
    """The same values for programs."""
    return {
        "out": str(plan.options.out),
        "nodes": plan.origin,
        "ranks": plan.ranks,
        "parts": [vars(estimate) for estimate in plan.estimates],
        "bytes_left": plan.bytes_left,
        "free_bytes": plan.free_bytes,
    }


def encoded_lines(encoded: Encoded) -> list[str]:
    """The features and the clips that failed with their reasons; or the nodes that failed."""
    if encoded.interrupted:
        return [f"interrupted; {AGAIN}"]
    if encoded.faults:
        failed = [f"{node} was given up: {fault}" for node, fault in encoded.faults.items()]
        return [*failed, f"not everything is encoded; {AGAIN}"]
    took, out = text.duration(encoded.seconds), encoded.plan.options.out
    return [
        *(line for part in encoded.parts for line in _failed_clips(part)),
        *map(_counts_of, encoded.parts),
        f"after {took}; to train on them: --set data.features={out}",
    ]


def encoded_json(encoded: Encoded) -> dict[str, Any]:
    """The same values for programs."""
    return {
        "out": str(encoded.plan.options.out),
        "seconds": round(encoded.seconds, 1),
        "parts": [dict(part) for part in encoded.parts],
        "faults": {node: str(fault) for node, fault in encoded.faults.items()},
        "interrupted": encoded.interrupted,
    }


def epoch_lines(epoch: Epoch, picture: Path | None) -> list[str | Table]:
    """A row for each resolution and length, dropped clips by reason, and the steps of the epoch."""
    return [
        Table(BUCKET_COLUMNS, tuple(_bucket_rows(epoch))),
        *_empty_buckets(epoch),
        *("", *_dropped(epoch)),
        *_steps(epoch),
        *([f"picture: {picture}"] if picture and epoch.steps else []),
    ]


def epoch_json(epoch: Epoch, picture: Path | None) -> dict[str, Any]:
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


def printable(name: str) -> str:
    """A path on one line: letters that cannot be printed are escaped.

    >>> printable("c\\nd.mp4")
    'c\\\\nd.mp4'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in name
    )


def _wrong_headers(info: Info) -> list[str]:
    """Clips whose header gives another number of frames than a player shows."""
    clips = info.header_frames.to_dict("records")
    rows = [
        f"{printable(clip['path'])}: {clip['num_frames']} shown, "
        f"{clip['header_frames']} in the header"
        for clip in clips
    ]
    count = text.count(len(clips), "clip shows", "clips show")
    first = [f"{count} another number of frames than the header says"] if clips else []
    return [*first, *_first(rows)]


def _first(rows: Sequence[str], where: str = "") -> list[str]:
    """The first rows, indented, and the number of the others."""
    more = [f"  and {len(rows) - MOST_CLIPS} more{where}"] if len(rows) > MOST_CLIPS else []
    return [*(f"  {row}" for row in rows[:MOST_CLIPS]), *more]


def _reasons(reasons: Iterable[str]) -> list[str]:
    counted = list(_counted(reasons).items())
    rest = sum(count for _, count in counted[MOST_REASONS:])
    return [
        *(f"{count} {reason}" for reason, count in counted[:MOST_REASONS]),
        *([f"{rest} for other reasons"] if rest else []),
    ]


def _counted(reasons: Iterable[str]) -> dict[str, int]:
    """Reasons with their numbers replaced by N, and how often each came; most frequent first."""
    return dict(Counter(re.sub(r"\b\d+\b", "N", reason) for reason in reasons).most_common())


def _files(*files: Path | None) -> str:
    return ", ".join(str(file) for file in files if file)


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _failed_clips(part: Mapping[str, Any]) -> list[str]:
    """The most frequent reasons of failed clips, and the first of these clips."""
    reasons = list(part["reasons"].items())[:MOST_REASONS]
    clips = part["failed_clips"]
    return [
        *(f"{count} {reason}" for reason, count in reasons),
        *(f"  {printable(clip['path'])}: {clip['reason']}" for clip in clips[:MOST_CLIPS]),
        *([f"  and others in {part['path']}/index.json"] if len(clips) > MOST_CLIPS else []),
    ]


def _counts_of(part: Mapping[str, Any]) -> str:
    encoded = text.count(part["clips"], ONE_OF[part["kind"]])
    return f"{encoded} encoded, {part['failed']} failed, {text.size(part['bytes'])}: {part['path']}"


def _bucket_rows(epoch: Epoch) -> Iterator[tuple[object, ...]]:
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
