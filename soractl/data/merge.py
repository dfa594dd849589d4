"""`data merge`: several tables become one that training can read, each clip once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from soractl.data import table as data_table

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class MergedInput:
    """Counts of one input table."""

    path: Path
    rows: int
    repeated: int  # rows whose path an earlier row has


@dataclass(frozen=True)
class Merged:
    """Result of `data merge`."""

    out: Path
    series: Mapping[str, "DataFrame"]  # input tables by their paths as given
    table: "DataFrame"
    inputs: tuple[MergedInput, ...]
    dropped_columns: tuple[str, ...]  # those that not all tables have
    incomplete: dict[str, int]  # rows without a value that training needs, by column


def merge(inputs: Sequence[Path], out: Path) -> Merged:
    """Write the rows of all tables as one table, each path once.

    The columns are those that all tables share, and of those that training needs any that one of
    them has: a value that a table lacks stays empty. SoractlError if a table cannot be read or
    written.
    """
    import pandas

    data_table.check_output(out, inputs)
    tables = [data_table.read(path) for path in inputs]
    every = list(dict.fromkeys(name for table in tables for name in table.columns))
    shared = [name for name in every if all(name in table.columns for table in tables)]
    kept = data_table.in_order(
        name for name in every if name in shared or name in data_table.NEEDED
    )
    whole = pandas.concat([table.reindex(columns=kept) for table in tables], ignore_index=True)
    is_repeated = whole["path"].duplicated().to_numpy()
    merged = whole[~is_repeated].reset_index(drop=True)
    data_table.write(merged, out)
    return Merged(
        out=out,
        series=dict(zip(map(str, inputs), tables, strict=True)),
        table=merged,
        inputs=tuple(
            MergedInput(path, len(table), int(is_repeated[end - len(table) : end].sum()))
            for path, table, end in zip(inputs, tables, accumulate(map(len, tables)), strict=True)
        ),
        dropped_columns=tuple(name for name in every if name not in kept),
        incomplete=_incomplete(merged),
    )


def _incomplete(table: "DataFrame") -> dict[str, int]:
    """Rows without a value, for each column that training needs and some rows lack."""
    values = table.reindex(columns=[*data_table.NEEDED])
    missing = {name: int(values[name].isna().sum()) for name in data_table.NEEDED}
    return {name: count for name, count in missing.items() if count}
