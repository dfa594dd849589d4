"""The table of clips that training reads, in columns that worker processes can share."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trainer.settings import ConfigError

_NUMBERS = ("num_frames", "height", "width")
_COLUMNS = ("path", "text", *_NUMBERS)

IntArray = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ClipTable:
    """One entry a clip; its number in the table is its id."""

    paths: "pd.Series[str]"  # Arrow strings: a million captions are two buffers, not objects
    captions: "pd.Series[str]"
    num_frames: IntArray
    height: IntArray  # pixels
    width: IntArray

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, row: int) -> str:
        """Where a clip lies."""
        return str(self.paths.iloc[row])

    def caption(self, row: int) -> str:
        """What a clip shows."""
        return str(self.captions.iloc[row])

    @cached_property
    def fingerprint(self) -> str:
        """Changes when clips are added, dropped, reordered or measured anew."""
        digest = hashlib.sha256("\n".join(self.paths).encode())
        for column in (self.num_frames, self.height, self.width):
            digest.update(np.ascontiguousarray(column, dtype=np.int64).tobytes())
        return digest.hexdigest()


def load_clips(path: Path) -> ClipTable:
    """A CSV or Parquet file with path, text, num_frames, height and width; else ConfigError."""
    table = _read(path)
    if missing := [name for name in _COLUMNS if name not in table.columns]:
        has = ", ".join(map(str, table.columns))
        raise ConfigError([f"{path} has no column {', '.join(missing)}; it has: {has}"])
    if table.empty:
        raise ConfigError([f"{path} has no rows"])
    numbers = {name: _as_integers(path, table, name) for name in _NUMBERS}
    return ClipTable(
        paths=table["path"].astype("str"),
        captions=table["text"].astype("str").fillna(""),
        **numbers,
    )


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except FileNotFoundError:
        raise ConfigError([f"data.path = {path}: no such file"]) from None
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path} cannot be read as a table: {error}"]) from None


def _as_integers(path: Path, table: pd.DataFrame, name: str) -> IntArray:
    values = pd.to_numeric(table[name], errors="coerce")
    if values.isna().any():
        row = int(np.flatnonzero(values.isna())[0])
        raise ConfigError([f"{path}: row {row} has {name} = {table[name].iloc[row]}; no number"])
    return values.to_numpy(dtype=np.int64)
