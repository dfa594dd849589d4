"""Lines and JSON of `data info`, `filter`, `check` and `merge`."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from soractl.data.check import Checked
from soractl.data.filter import Filtered
from soractl.data.info import Info
from soractl.data.merge import Merged
from soractl.errors import INTERRUPTED
from soractl.terminal import text
from soractl.terminal.table import Table

MOST_REASONS = 10
MOST_CLIPS = 5


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
