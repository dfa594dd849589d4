"""The table of clips that training reads, in columns without an object a clip."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from trainer.data.table_columns import (
    NUMBERS,
    TEXTS,
    WHOLE,
    ColumnError,
    as_numbers,
    as_text,
    read_csv,
)
from trainer.settings import ConfigError

_COLUMNS = (*TEXTS, *WHOLE)
_TEXT = pd.StringDtype("pyarrow")  # a million captions are two buffers

IntArray = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ClipTable:
    """One entry a clip; its number in the table is its id."""

    paths: "pd.Series[str]"
    captions: "pd.Series[str]"
    num_frames: IntArray
    height: IntArray  # pixels
    width: IntArray
    fingerprint: str  # changes when clips are added, dropped, reordered or measured anew

    def __len__(self) -> int:
        return len(self.paths)

    def path_of(self, row: int) -> str:
        """Path of a clip."""
        return str(self.paths.iloc[row])

    def captions_of(self, rows: Iterable[int]) -> list[str]:
        """Captions of clips; empty where the table has none."""
        return [str(self.captions.iloc[row]) for row in rows]


def load_clips(path: Path) -> ClipTable:
    """A CSV or Parquet file with path, text, num_frames, height and width; else ConfigError."""
    table = _read(path)
    if missing := [name for name in _COLUMNS if name not in table.columns]:
        has = ", ".join(map(str, table.columns))
        raise ConfigError([f"{path} has no column {', '.join(missing)}; it has: {has}"])
    if table.empty:
        raise ConfigError([f"{path} has no rows"])
    paths = _as_text(path, table, "path")
    if paths.isna().any():
        raise ConfigError([f"{path}: row {_first(paths.isna())} has no path"])
    captions = _as_text(path, table, "text").fillna("")
    numbers = {name: _as_integers(path, table, name) for name in WHOLE}
    del table
    pa.default_memory_pool().release_unused()  # of reading, which every rank would keep
    return ClipTable(
        paths=paths,
        captions=captions,
        **numbers,
        fingerprint=_fingerprint(paths, *numbers.values()),
    )


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return read_csv(path, TEXTS, NUMBERS)
    except FileNotFoundError:
        raise ConfigError(
            [f"data.path = {path}: no such file; `--set data.path=OTHER` names another"]
        ) from None
    except pd.errors.EmptyDataError:
        raise ConfigError([f"{path} is empty"]) from None
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror or error}"]) from None
    except pd.errors.ParserWarning:
        raise ConfigError(
            [f"{path}: rows have more fields than the header; a text with a comma needs quotes"]
        ) from None
    except ValueError as error:
        raise ConfigError([f"{path} cannot be read as a table: {error}"]) from None


def _as_text(path: Path, table: pd.DataFrame, name: str) -> "pd.Series[str]":
    try:
        return as_text(table[name]).astype(_TEXT)
    except ColumnError as fault:
        raise ConfigError([f"{path}: {fault}"]) from None


def _as_integers(path: Path, table: pd.DataFrame, name: str) -> IntArray:
    try:
        return as_numbers(table[name], known=True).astype(np.int64)
    except ColumnError as fault:
        raise ConfigError([f"{path}: {fault}"]) from None


def _first(wrong: Any) -> int:
    return int(np.flatnonzero(wrong)[0])


def _fingerprint(paths: "pd.Series[str]", *numbers: IntArray) -> str:
    digest = hashlib.sha256("\n".join(paths).encode())
    for column in numbers:
        digest.update(column.tobytes())
    return digest.hexdigest()
