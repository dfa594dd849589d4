"""`data filter`: the rows of a table that are worth training on, and the reasons of the others."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soractl.data import table as data_table
from soractl.errors import ExitCode, SoractlError

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MIB = 2**20


@dataclass(frozen=True)
class FilterOptions:
    """Options of `data filter`; a limit that is None drops nothing."""

    table: Path
    out: Path
    min_frames: int | None = None
    max_mb: float | None = None  # MiB
    min_pixels: int | None = None
    no_empty_captions: bool = True

    @property
    def dropped_file(self) -> Path:
        """The table of dropped clips."""
        return self.out.with_name(f"{self.out.stem}.dropped{self.out.suffix}")


@dataclass(frozen=True)
class Filtered:
    """Result of `data filter`."""

    options: FilterOptions
    before: "DataFrame"
    after: "DataFrame"
    dropped: "DataFrame"  # path, reason: the first that applies
    counts: dict[str, int]  # of the dropped, by reason

    @property
    def written(self) -> Path | None:
        """The table of kept rows, if one is written."""
        return self.options.out if len(self.after) else None

    @property
    def written_dropped(self) -> Path | None:
        """The table of dropped rows, if one is written."""
        return self.options.dropped_file if len(self.dropped) else None

    @property
    def series(self) -> "dict[str, DataFrame]":
        """Tables to draw beside each other, by their label; none if no table is written."""
        return {"before": self.before, "after": self.after} if self.written else {}

    @property
    def exit_code(self) -> ExitCode:
        """Exit code: 1 if no row is kept."""
        return ExitCode.OK if len(self.after) else ExitCode.FAILED


def keep(options: FilterOptions) -> Filtered:
    """Write a table of the rows that are kept, in their order, and one of the dropped rows.

    SoractlError if a limit is no size, a column is missing or a table cannot be written.
    """
    if options.max_mb is not None and not 0 < options.max_mb < math.inf:
        raise SoractlError(f"--max-mb must be a positive number of MiB: {options.max_mb:g}")
    for out in (options.out, options.dropped_file):
        data_table.check_output(out, [options.table])
    before = data_table.read(options.table)
    kept = before
    parts = {}
    for reason, column in _rules(options):
        data_table.require(before, [column], options.table)
        bad = _breaks(kept[column], options)
        parts[reason] = kept.loc[bad, ["path"]].assign(reason=reason)
        kept = kept[~bad]
    result = Filtered(
        options=options,
        before=before,
        after=kept,
        dropped=_concatenated(list(parts.values())),
        counts={reason: len(part) for reason, part in parts.items()},
    )
    _write(result)
    return result


def _concatenated(parts: "Sequence[DataFrame]") -> "DataFrame":
    """All dropped rows, in the order of the table."""
    import pandas

    return pandas.concat(parts).sort_index() if parts else pandas.DataFrame()


def _write(result: Filtered) -> None:
    options = result.options
    if len(result.dropped):
        data_table.write(result.dropped, options.dropped_file)
    else:
        options.dropped_file.unlink(missing_ok=True)  # of an earlier command
    if len(result.after):
        data_table.write(result.after, options.out)


def _rules(options: FilterOptions) -> Iterator[tuple[str, str]]:
    """Each rule's reason, and the column that it reads."""
    if options.no_empty_captions:
        yield "empty caption", "text"
    if options.min_frames is not None:
        yield f"fewer than {options.min_frames} frames", "num_frames"
    if options.max_mb is not None:
        yield f"{options.max_mb:g} MiB or larger", "file_size"
    if options.min_pixels is not None:
        yield f"fewer than {options.min_pixels} pixels", "resolution"


def _breaks(values: "Series[Any]", options: FilterOptions) -> "Series[bool]":
    """True for each row that breaks the rule of its column; an unknown value breaks it."""
    if values.name == "text":
        return values.isna() | (values.astype(str).str.strip() == "")
    if values.name == "file_size":
        return ~(values < (options.max_mb or 0) * MIB)
    least = options.min_frames if values.name == "num_frames" else options.min_pixels
    return ~(values >= (least or 0))
