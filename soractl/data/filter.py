"""`data filter`: the rows of a table that are worth training on, and why the others are not."""

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
class Wishes:
    """What was asked for."""

    table: Path
    out: Path
    min_frames: int | None = None
    max_mb: float | None = None
    min_pixels: int | None = None
    no_empty_captions: bool = True

    @property
    def drops(self) -> Path:
        """The table of clips that fall out."""
        return self.out.with_name(f"{self.out.stem}.dropped{self.out.suffix}")


@dataclass(frozen=True)
class Filtered:
    """What came of it."""

    wishes: Wishes
    before: "DataFrame"
    after: "DataFrame"
    dropped: "DataFrame"  # path, reason: the first that holds
    counts: dict[str, int]  # of the dropped, by reason

    @property
    def exit_code(self) -> ExitCode:
        """1 if nothing is left."""
        return ExitCode.OK if len(self.after) else ExitCode.FAILED


def keep(wishes: Wishes) -> Filtered:
    """Write the rows that stay, in their order, and which do not."""
    if wishes.max_mb is not None and not 0 < wishes.max_mb < math.inf:
        raise SoractlError(f"--max-mb is a number of MiB, more than 0: {wishes.max_mb:g}")
    for out in (wishes.out, wishes.drops):
        data_table.check_output(out, [wishes.table])
    before = data_table.read(wishes.table)
    left = before
    parts = {}
    for reason, column in _rules(wishes):
        data_table.require(before, [column], wishes.table)
        bad = _breaks(left[column], wishes)
        parts[reason] = left.loc[bad, ["path"]].assign(reason=reason)
        left = left[~bad]
    told = Filtered(
        wishes=wishes,
        before=before,
        after=left,
        dropped=_in_one(list(parts.values())),
        counts={reason: len(part) for reason, part in parts.items()},
    )
    _write(told)
    return told


def _in_one(parts: "Sequence[DataFrame]") -> "DataFrame":
    """All that fall out, in the order of the table."""
    import pandas

    return pandas.concat(parts).sort_index() if parts else pandas.DataFrame()


def _write(told: Filtered) -> None:
    wishes = told.wishes
    if len(told.dropped):
        data_table.write(told.dropped, wishes.drops)
    else:
        wishes.drops.unlink(missing_ok=True)  # of an earlier command
    if len(told.after):
        data_table.write(told.after, wishes.out)


def _rules(wishes: Wishes) -> Iterator[tuple[str, str]]:
    """Why a row falls out, and the column that tells."""
    if wishes.no_empty_captions:
        yield "empty caption", "text"
    if wishes.min_frames is not None:
        yield f"fewer than {wishes.min_frames} frames", "num_frames"
    if wishes.max_mb is not None:
        yield f"{wishes.max_mb:g} MiB or larger", "file_size"
    if wishes.min_pixels is not None:
        yield f"fewer than {wishes.min_pixels} pixels", "resolution"


def _breaks(values: "Series[Any]", wishes: Wishes) -> "Series[bool]":
    """Which rows break the rule of a column; what is unknown breaks it."""
    if values.name == "text":
        return values.isna() | (values.astype(str).str.strip() == "")
    if values.name == "file_size":
        return ~(values < (wishes.max_mb or 0) * MIB)
    least = wishes.min_frames if values.name == "num_frames" else wishes.min_pixels
    return ~(values >= (least or 0))
