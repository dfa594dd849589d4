"""Columns of a table of clips as text and as numbers, the same for preparing and for training."""

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TEXTS = ("path", "text")
NUMBERS = ("num_frames", "height", "width", "aspect_ratio", "fps", "resolution", "file_size")
WHOLE = ("num_frames", "height", "width")
_LARGEST = 2**53  # a float holds each whole number up to it
_UNKNOWN = ("", "nan", "NaN", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "None", "<NA>")


class ColumnError(ValueError):
    """A value that does not fit its column: `row 3 has height = tall; no number`."""


def read_csv(path: Path, texts: Collection[str], numbers: Collection[str]) -> pd.DataFrame:
    """A CSV file; `None`, `NA` and `nan` are words but in `numbers`, empty fields are unknown.

    Raises what pandas raises, ParserWarning among it for a row with more fields than the header.
    """
    names = list(pd.read_csv(path, nrows=0, index_col=False).columns)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        # with an index a column too many would become the rows' names, and all others be shifted
        return pd.read_csv(
            path,
            low_memory=False,
            index_col=False,
            dtype=dict.fromkeys(texts, str),
            keep_default_na=False,
            na_values={name: list(_UNKNOWN) if name in numbers else [""] for name in names},
        )


def as_text(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Text of text or numbers, unknown stays so; ColumnError for lists, bytes and the like."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if pd.api.types.is_string_dtype(column.dtype) and column.dtype != object:
        return column
    if _is_number(column):
        return column.astype(str).where(column.notna(), None)
    is_text = column.map(lambda value: isinstance(value, str) or _is_scalar_number(value))
    _refuse(column, ~(is_text | _is_unknown(column)), "no text")
    return column.map(str, na_action="ignore")


def as_numbers(column: "pd.Series[Any]", *, known: bool = False) -> np.ndarray[Any, Any]:
    """float64, NaN where unknown; ColumnError for what is no number, or not finite if `known`.

    Frames, height and width are whole.
    """
    if _is_number(column):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        values = column.map(_number).to_numpy(dtype=np.float64)
        _refuse(column, np.isnan(values) & ~_is_unknown(column), "no number")
    if known:
        _refuse(column, ~np.isfinite(values), "no number")
    if column.name in WHOLE:
        with np.errstate(invalid="ignore"):
            is_whole = (values == np.floor(values)) & (np.abs(values) <= _LARGEST)
        _refuse(column, ~(is_whole | np.isnan(values)), "no whole number")
    return values


def _is_number(column: "pd.Series[Any]") -> bool:
    types = pd.api.types
    return types.is_numeric_dtype(column) and not (
        types.is_bool_dtype(column) or types.is_complex_dtype(column)
    )


def _is_scalar_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _number(value: Any) -> float:
    """NaN for what is none."""
    if isinstance(value, bool | np.bool_):
        return np.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _is_unknown(column: "pd.Series[Any]") -> np.ndarray[Any, Any]:
    """Mask of the values that are None, NaN or NaT; a list of them is none."""
    return column.map(lambda value: pd.api.types.is_scalar(value) and pd.isna(value)).to_numpy(bool)


def _refuse(column: "pd.Series[Any]", wrong: Any, what: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        value = str(column.iloc[rows[0]])
        shown = value if len(value) <= 60 else f"{value[:59]}…"
        raise ColumnError(f"row {rows[0]} has {column.name} = {shown}; {what}")
