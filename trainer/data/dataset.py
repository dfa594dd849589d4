"""The table of clips that training reads, in columns without an object a clip."""

import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from trainer.settings import ConfigError

_NUMBERS = ("num_frames", "height", "width")
_COLUMNS = ("path", "text", *_NUMBERS)
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
        """Where a clip lies."""
        return str(self.paths.iloc[row])

    def captions_of(self, rows: Iterable[int]) -> list[str]:
        """What each clip shows; empty where the table says nothing."""
        return [str(self.captions.iloc[row]) for row in rows]


def load_clips(path: Path) -> ClipTable:
    """A CSV or Parquet file with path, text, num_frames, height and width; else ConfigError."""
    table = _read(path)
    if missing := [name for name in _COLUMNS if name not in table.columns]:
        has = ", ".join(map(str, table.columns))
        raise ConfigError([f"{path} has no column {', '.join(missing)}; it has: {has}"])
    if table.empty:
        raise ConfigError([f"{path} has no rows"])
    paths = table["path"].astype(_TEXT)
    if paths.isna().any():
        raise ConfigError([f"{path}: row {_first(paths.isna())} has no path"])
    captions = table["text"].astype(_TEXT).fillna("")
    numbers = {name: _as_integers(path, table, name) for name in _NUMBERS}
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
        return pd.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
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


def _read_csv(path: Path) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        # with an index a column too many would become the rows' names, and all others be shifted
        table = pd.read_csv(path, index_col=False)
        texts = [name for name in ("path", "text") if name in table.columns]
        if all(pd.api.types.is_string_dtype(table[name]) for name in texts):
            return table
        # 007 has become 7; to ask for text at once takes most tables twice the time
        return pd.read_csv(path, index_col=False, dtype=dict.fromkeys(texts, str))


def _as_integers(path: Path, table: pd.DataFrame, name: str) -> IntArray:
    values = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = _first(wrong)
        raise ConfigError([f"{path}: row {row} has {name} = {table[name].iloc[row]}; no number"])
    return values.astype(np.int64)


def _first(wrong: Any) -> int:
    return int(np.flatnonzero(wrong)[0])


def _fingerprint(paths: "pd.Series[str]", *numbers: IntArray) -> str:
    digest = hashlib.sha256("\n".join(paths).encode())
    for column in numbers:
        digest.update(column.tobytes())
    return digest.hexdigest()
