"""What the `data` commands say."""

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from soractl.data.buckets import Epoch
from soractl.data.check import Checked
from soractl.data.encode import Encoded, Planned
from soractl.data.filter import Filtered
from soractl.data.info import Info
from soractl.data.merge import Merged
from soractl.errors import INTERRUPTED
from soractl.terminal import text

MOST_REASONS = 10
MOST_FILES = 5
_FEATURES = {"text": "caption", "video": "clip"}
WIDTH = 80
BUCKET_HEADERS = (
    *("RESOLUTION", "FRAMES", "CLIPS", "SHARE", "BATCH", "BATCHES", "LEFT OVER", "TOKENS", "SHARE"),
)


def info_lines(told: Info, picture: Path | None) -> list[str]:
    """How many could be read, and why the others could not."""
    wishes = told.wishes
    if told.lost:
        return [_unfinished(len(told.table) + len(told.failed), str(told.lost))]
    lines = _reasons(told.failed["reason"])
    rows = text.count(told.repeated, "row")
    lines += [f"{rows} with a path that another row has"] if told.repeated else []
    lines += _header_lines(told)
    counts = f"{text.count(len(told.table), 'clip')} measured, {len(told.failed)} failed"
    files = [wishes.out] if len(told.table) else []
    files += [wishes.failures] if len(told.failed) else []
    return [*lines, f"{counts}: {_files(files, picture)}"]


def _header_lines(told: Info) -> list[str]:
    """Clips of which a header promises another number of frames than is shown."""
    clips = told.header_frames.to_dict("records")
    if not clips:
        return []
    count = text.count(len(clips), "clip shows", "clips show")
    return [
        f"{count} another number of frames than the header says",
        *(
            f"  {_printable(clip['path'])}: {clip['num_frames']} shown, "
            f"{clip['header_frames']} in the header"
            for clip in clips[:MOST_FILES]
        ),
        *([f"  and {len(clips) - MOST_FILES} more"] if len(clips) > MOST_FILES else []),
    ]


def info_json(told: Info, picture: Path | None) -> dict[str, Any]:
    """The same for programs."""
    return {
        "out": str(told.wishes.out) if len(told.table) and not told.lost else None,
        "failures": str(told.wishes.failures) if len(told.failed) and not told.lost else None,
        "picture": _path(picture),
        "clips": len(told.table),
        "failed": len(told.failed),
        "repeated": told.repeated,
        "reasons": _counted(told.failed["reason"]),
        "header_differs": told.header_frames.to_dict("records"),
        "error": str(told.lost) if told.lost else None,
    }


def filter_lines(told: Filtered, picture: Path | None) -> list[str]:
    """How many fell out for which reason."""
    lines = text.table(("ROWS", "FALL OUT"), [(n, reason) for reason, n in told.counts.items()])
    kept = f"{len(told.after)} of {text.count(len(told.before), 'row')} kept"
    if not len(told.after):
        return [*lines, f"{kept}: {told.wishes.drops}; {told.wishes.out} is not written"]
    drops = [told.wishes.drops] if len(told.dropped) else []
    return [*lines, f"{kept}: {_files([told.wishes.out, *drops], picture)}"]


def filter_json(told: Filtered, picture: Path | None) -> dict[str, Any]:
    """The same for programs."""
    return {
        "out": str(told.wishes.out) if len(told.after) else None,
        "drops": str(told.wishes.drops) if len(told.dropped) else None,
        "picture": _path(picture),
        "rows": len(told.before),
        "kept": len(told.after),
        "dropped": told.counts,
    }


def check_lines(told: Checked, picture: Path | None) -> list[str]:
    """Reasons, the first broken files, lost nodes, and the count."""
    lines = _reasons(entry["reason"] for entry in told.failed)
    lines += [
        f"  {_printable(entry['path'])}: {entry['reason']}" for entry in told.failed[:MOST_FILES]
    ]
    if len(told.failed) > MOST_FILES:
        lines.append(f"  and {len(told.failed) - MOST_FILES} more in {told.wishes.journal}")
    lost = {node: fault for node, fault in told.lost.items() if fault != INTERRUPTED}
    lines += [f"{node} was given up: {fault}" for node, fault in lost.items()]
    healthy = told.table["path"].nunique() - told.left - len(told.failed)
    counts = f"{healthy} healthy, {len(told.failed)} failed"
    if told.left:
        return [*lines, f"{counts}, {told.left} not checked; --resume goes on"]
    files = [told.wishes.out] if told.wishes.out and len(told.healthy) else []
    return [*lines, f"{counts}: {_files([*files, told.wishes.journal], picture)}"]


def check_json(told: Checked, picture: Path | None) -> dict[str, Any]:
    """The same for programs."""
    wishes = told.wishes
    is_written = wishes.out is not None and not told.left and len(told.healthy)
    return {
        "out": str(wishes.out) if is_written else None,
        "job_log": str(wishes.journal),
        "picture": _path(picture),
        "nodes": told.source.origin,
        "healthy": told.table["path"].nunique() - told.left - len(told.failed),
        "failed": [{"path": e["path"], "reason": e["reason"]} for e in told.failed],
        "not_checked": told.left,
        "lost_nodes": {node: str(fault) for node, fault in told.lost.items()},
    }


def size_lines(told: Planned) -> list[str]:
    """What will be encoded, how large it gets, and where."""
    rows = [
        (
            f"{_FEATURES[part.kind]}s",
            part.clips,
            part.variants,
            text.size(part.bytes),
            part.done_clips,
        )
        for part in told.parts
    ]
    lines = text.table(("FEATURES", "NUMBER", "VARIANTS", "SIZE", "DONE"), rows)
    where = f"{told.wishes.out} has {text.size(told.free_bytes)} free"
    places = f"{text.count(told.ranks, 'rank')} on {text.count(len(told.requests), 'node')}"
    return [*lines, f"about {text.size(told.bytes_left)} to write by {places}; {where}"]


def size_json(told: Planned) -> dict[str, Any]:
    """The same for programs."""
    return {
        "out": str(told.wishes.out),
        "nodes": told.source.origin,
        "ranks": told.ranks,
        "parts": [vars(part) for part in told.parts],
        "bytes_left": told.bytes_left,
        "free_bytes": told.free_bytes,
    }


def encode_lines(told: Encoded) -> list[str]:
    """What the features hold, which clips have none and why; or what kept nodes from ending."""
    again = "the same command goes on with what is left"
    if told.interrupted:
        return [f"interrupted; {again}"]
    if told.faults:
        lines = [f"{node} was given up: {fault}" for node, fault in told.faults.items()]
        return [*lines, f"not all is encoded; {again}"]
    lines = []
    for part in told.parts:
        lines += [f"{count} {reason}" for reason, count in _most(part["reasons"])]
        clips = part["failed_clips"]
        lines += [f"  {_printable(clip['path'])}: {clip['reason']}" for clip in clips[:MOST_FILES]]
        if len(clips) > MOST_FILES:
            lines.append(f"  and others in {part['path']}/index.json")
    for part in told.parts:
        encoded = text.count(part["clips"], _FEATURES[part["kind"]])
        counts = f"{encoded} encoded, {part['failed']} failed"
        lines.append(f"{counts}, {text.size(part['bytes'])}: {part['path']}")
    took = text.duration(told.seconds)
    return [
        *lines,
        f"after {took}; to train on them: --set data.features={told.planned.wishes.out}",
    ]


def encode_json(told: Encoded) -> dict[str, Any]:
    """The same for programs."""
    return {
        "out": str(told.planned.wishes.out),
        "seconds": round(told.seconds, 1),
        "parts": [dict(part) for part in told.parts],
        "faults": {node: str(fault) for node, fault in told.faults.items()},
        "interrupted": told.interrupted,
    }


def merge_lines(told: Merged, picture: Path | None) -> list[str]:
    """What each table gave, and what is missing for training."""
    parts = [(part.path, part.rows, part.repeated) for part in told.parts]
    lines = text.table(("TABLE", "ROWS", "REPEATED"), parts)
    if told.dropped_columns:
        lines.append(f"columns that not all have: {', '.join(told.dropped_columns)}")
    for name, count in told.incomplete.items():
        lines.append(f"{text.count(count, 'row')} without {name}")
    if told.incomplete.keys() - {"text"}:
        lines.append(f"hint: soractl data info {told.out} --out OUT measures them")
    rows = text.count(len(told.table), "row")
    return [*lines, f"{rows}: {_files([told.out], picture)}"]


def merge_json(told: Merged, picture: Path | None) -> dict[str, Any]:
    """The same for programs."""
    return {
        "out": str(told.out),
        "picture": _path(picture),
        "rows": len(told.table),
        "tables": [
            {"path": str(part.path), "rows": part.rows, "repeated": part.repeated}
            for part in told.parts
        ],
        "dropped_columns": list(told.dropped_columns),
        "rows_without": told.incomplete,
    }


def buckets_lines(told: Epoch, picture: Path | None) -> list[str]:
    """A row for each resolution and length, who falls out, and the epoch."""
    tokens = told.tokens
    rows = [
        (
            *(row.resolution, row.frames, row.clips, _share(row.clips, told.clips)),
            *(row.batch_size or "-", row.batches, row.left_over, _short(row.tokens)),
            _share(row.tokens, tokens),
        )
        for row in told.rows
        if row.clips
    ]
    lines = text.table(BUCKET_HEADERS, rows)
    empty = [f"{row.resolution}/{row.frames}" for row in told.rows if not row.clips]
    lines += textwrap.wrap(f"no clip in {', '.join(empty)}", WIDTH) if empty else []
    fallen = sum(told.fallen.values())
    lines += ["", f"{fallen} of {text.count(told.clips, 'clip')} are not trained on in this epoch"]
    reasons = [(f"  {count}", reason) for reason, count in told.fallen.items() if count]
    lines += text.pairs(reasons) if reasons else []
    if not told.is_possible:
        return [*lines, f"the buckets of {told.stage} can hold no clip: each keeps 0 or has none"]
    if not told.steps:
        batches = text.count(told.batches, "full batch", "full batches")
        why = f"only {batches} for {text.count(told.ranks, 'rank')}"
        return [*lines, f"no step to train: {why}"]
    epoch = f"an epoch for {text.count(told.ranks, 'rank')}: {text.count(told.steps, 'step')}"
    batches = text.count(told.batches, "micro batch", "micro batches")
    lines += ["", f"{epoch}, {batches}, {_short(tokens)} tokens"]
    for window, balance in told.balance.items():
        lines.append(
            f"balance.window = {window}: ranks work {100 * balance:.1f} % of a step's time"
        )
    return [*lines, *([f"picture: {picture}"] if picture else [])]


def buckets_json(told: Epoch, picture: Path | None) -> dict[str, Any]:
    """The same for programs."""
    return {
        "stage": told.stage,
        "table": str(told.table),
        "picture": _path(picture),
        "clips": told.clips,
        "ranks": told.ranks,
        "steps": told.steps,
        "micro_batches": told.batches,
        "tokens": told.tokens,
        "buckets": [{**vars(row), "left_over": row.left_over} for row in told.rows],
        "fallen_out": told.fallen,
        "balance_by_window": {str(window): share for window, share in told.balance.items()},
    }


def _reasons(reasons: Iterable[str]) -> list[str]:
    counted = _counted(reasons)
    lines = [f"{count} {reason}" for reason, count in list(counted.items())[:MOST_REASONS]]
    rest = sum(list(counted.values())[MOST_REASONS:])
    return [*lines, *([f"{rest} for other reasons"] if rest else [])]


def _most(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    return list(reasons.items())[:MOST_REASONS]


def _counted(reasons: Iterable[str]) -> dict[str, int]:
    """How often each reason was given, whatever the numbers in it; the most frequent first."""
    return dict(Counter(re.sub(r"\b\d+\b", "N", reason) for reason in reasons).most_common())


def _unfinished(done: int, fault: str) -> str:
    return f"{fault} after {text.count(done, 'clip')}; the same command goes on from there"


def _files(files: Iterable[Path], picture: Path | None) -> str:
    return ", ".join(str(file) for file in [*files, *([picture] if picture else [])])


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _printable(name: str) -> str:
    """A path as one line, whatever stands in it."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in name
    )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _short(number: float) -> str:
    """`950`, `12.3 k`, `4.56 M`, `1.2 G`."""
    for unit in ("", " k", " M", " G", " T"):
        if number < 1000 or unit == " T":
            break
        number /= 1000
    return f"{number:.3g}{unit}"
