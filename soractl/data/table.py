"""Tables of clips, as CSV or Parquet: read under the trainer's column names, written aside."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from soractl.errors import SoractlError
from soractl.files import output as data_output

if TYPE_CHECKING:
    from pandas import DataFrame

NUMBERS = ("num_frames", "height", "width")
NEEDED = ("path", "text", *NUMBERS)  # by training
COLUMNS = (*NEEDED, "aspect_ratio", "fps", "resolution", "file_size")
MEASURED = COLUMNS[2:]
# Names in published tables (OpenVid, MiraData), in the order of preference.
OTHER_NAMES = {
    "path": ("video", "file_path"),
    "text": ("caption", "dense_caption", "short_caption"),
    "num_frames": ("frame",),
}
ENDINGS = (".csv", ".parquet")


def read(path: Path, *, measured: bool = True) -> "DataFrame":
    """The rows of a file, at least one, with a column `path`; SoractlError says what is wrong.

    Each number is one or unknown, unless they are to be `measured` anew; texts are texts.
    """
    from trainer.data.table_columns import ColumnError

    check_ending(path)
    table = _load(path)
    table = table.rename(columns=_renamed(list(table.columns)))
    _require_paths(table, path)
    try:
        return _typed(table, MEASURED if measured else ())
    except ColumnError as fault:
        raise SoractlError(f"{path}: {fault}") from None


def _load(path: Path) -> "DataFrame":
    """The file as it is; SoractlError if it is no table."""
    import pandas

    try:
        return _read_csv(path) if path.suffix == ".csv" else pandas.read_parquet(path)
    except pandas.errors.EmptyDataError:
        raise SoractlError(f"{path} is empty") from None
    except OSError as error:
        raise SoractlError(f"{path}: {error.strerror or error}") from None
    except ImportError:
        raise _no_parquet(path) from None
    except pandas.errors.ParserWarning:
        raise SoractlError(
            f"{path}: rows have more fields than the header",
            hint="quote texts that hold a comma, and name every column",
        ) from None
    except ValueError as error:
        raise SoractlError(f"{path} cannot be read as a table: {str(error).strip()}") from None


def _require_paths(table: "DataFrame", path: Path) -> None:
    """SoractlError unless the table has rows, and each has a path."""
    if "path" not in table.columns:
        raise SoractlError(
            f"{path} has no column path; it has: {', '.join(map(str, table.columns))}",
            hint=f"other names for path: {', '.join(OTHER_NAMES['path'])}",
        )
    if table.empty:
        raise SoractlError(f"{path} has no rows")
    missing = table["path"].isna()
    if missing.any():
        raise SoractlError(f"{path}: row {int(missing.argmax())} has no path")


def _read_csv(path: Path) -> "DataFrame":
    from trainer.data import table_columns

    texts = [name for own in table_columns.TEXTS for name in (own, *OTHER_NAMES[own])]
    return table_columns.read_csv(path, texts, (*MEASURED, *OTHER_NAMES["num_frames"]))


def _typed(table: "DataFrame", numbers: Sequence[str]) -> "DataFrame":
    """The table with texts as strings and numbers as numbers."""
    import pandas

    from trainer.data import table_columns

    for name in {*table_columns.TEXTS} & {*table.columns}:
        table[name] = table_columns.as_text(table[name])
    for name in {*numbers} & {*table.columns}:
        values = table_columns.as_numbers(table[name])
        if not pandas.api.types.is_numeric_dtype(table[name]):
            table[name] = values
    return table


def write(table: "DataFrame", path: Path) -> None:
    """Write a table as CSV or Parquet, whole or not at all; SoractlError if that fails."""
    try:
        with data_output.aside(path) as draft:
            if path.suffix == ".parquet":
                table.to_parquet(draft, index=False)
            else:
                table.to_csv(draft, index=False, quoting=_quoting(table))
    except ImportError:
        raise _no_parquet(path) from None


def _quoting(table: "DataFrame") -> Literal[0, 2]:
    """csv's quoting rule: it quotes what needs it, except a lone carriage return."""
    for name in table.columns:
        if any("\r" in value for value in table[name] if isinstance(value, str)):
            return csv.QUOTE_NONNUMERIC
    return csv.QUOTE_MINIMAL


def check_output(out: Path, inputs: Iterable[Path]) -> None:
    """SoractlError if a table cannot be written there; for use before the work."""
    check_ending(out)
    if any(out.resolve() == path.resolve() for path in inputs):
        raise SoractlError(f"{out} is also an input", hint="give --out another name")
    data_output.check_file(out)


def check_ending(path: Path) -> None:
    """SoractlError unless a file's name ends in .csv or .parquet."""
    if path.suffix not in ENDINGS:
        raise SoractlError(f"{path}: the name of a table ends in {' or '.join(ENDINGS)}")


def require(table: "DataFrame", columns: Sequence[str], path: Path) -> None:
    """SoractlError unless a table has these columns, and those of numbers hold one."""
    missing = [name for name in columns if name not in table.columns]
    hint = f"soractl data info {path} --out {path.stem}_info{path.suffix}"
    if missing:
        raise SoractlError(f"{path} has no column {', '.join(missing)}", hint=hint)
    for name in columns:
        if name in MEASURED and table[name].isna().all():
            raise SoractlError(f"{path}: no row has a number as {name}", hint=hint)


def in_order(columns: Iterable[str]) -> list[str]:
    """Columns in the order of COLUMNS; the others follow in their own order."""
    columns = list(columns)
    known = [name for name in COLUMNS if name in columns]
    return known + [name for name in columns if name not in known]


def _renamed(columns: Sequence[str]) -> dict[str, str]:
    """The trainer's name for each column that a published table calls otherwise."""
    renamed = {}
    for name, others in OTHER_NAMES.items():
        found = [other for other in others if other in columns]
        if found and name not in columns:
            renamed[found[0]] = name
    return renamed


def _no_parquet(path: Path) -> SoractlError:
    return SoractlError(f"{path}: Parquet needs pyarrow", hint="pip install 'soractl[train]'")
