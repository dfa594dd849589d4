"""`data merge`: several tables become one that training can read, each clip once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from soractl.data import table as data_table

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Part:
    """What one table gave."""

    path: Path
    rows: int
    repeated: int  # rows whose path an earlier row has


@dataclass(frozen=True)
class Merged:
    """What came of it."""

    out: Path
    tables: Mapping[str, "DataFrame"]  # by the path that was given
    table: "DataFrame"
    parts: tuple[Part, ...]
    dropped_columns: tuple[str, ...]  # those that not all tables have
    incomplete: dict[str, int]  # rows without a value that training needs, by column


def merge(inputs: Sequence[Path], out: Path) -> Merged:
    """Write all rows under each other.

    The columns are those that all tables share, and of those that training needs any that one of
    them has: what a table lacks of these stays empty.
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
    is_repeated = whole["path"].duplicated()
    parts, begin = [], 0
    for path, table in zip(inputs, tables, strict=True):
        repeated = int(is_repeated.iloc[begin : begin + len(table)].sum())
        parts.append(Part(path, len(table), repeated))
        begin += len(table)
    merged = whole[~is_repeated].reset_index(drop=True)
    data_table.write(merged, out)
    missing = {name: int(merged[name].isna().sum()) for name in data_table.NEEDED if name in kept}
    missing |= {name: len(merged) for name in data_table.NEEDED if name not in kept}
    return Merged(
        out=out,
        tables=dict(zip(map(str, inputs), tables, strict=True)),
        table=merged,
        parts=tuple(parts),
        dropped_columns=tuple(name for name in every if name not in kept),
        incomplete={name: count for name, count in missing.items() if count},
    )
