"""Window of time as the page draws it: maps, lines and gaps of the store, in few bytes.

A map is a byte a cell, of all its values' range (255: unknown); a line two bytes a point (65535).
Several minutes in one column are reduced to the worst one, and the missing ones are counted, so
that no reduction hides a gap.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from soractl.monitor import store
from soractl.monitor.record import Floats, numbers, unpack

MOST_COLUMNS = 1440
MOST_SPAN_OF_LOOKS_S = 7200
MEAN, LEAST, MOST = 0, 1, 2  # the records of a minute

Reduce = Literal["least", "most", "mean"]


@dataclass(frozen=True)
class Span:
    """A stretch of time, cut into columns of equal length."""

    begin: int  # a multiple of step_s
    columns: int
    step_s: int
    of_looks: bool  # else of minutes

    @property
    def end(self) -> int:
        """The second after the last column."""
        return self.begin + self.columns * self.step_s


@dataclass(frozen=True)
class Grid:
    """Values of a span, NaN where unknown: [rows, columns], and what each row is."""

    rows: tuple[tuple[str, int | None], ...]  # node and GPU; None: of the whole node
    values: Floats


def span_of(begin: float, end: float, every_s: float) -> Span:
    """The span between two moments: of looks where it is short, else of minutes."""
    length = max(end - begin, 60.0)
    of_looks = length <= MOST_SPAN_OF_LOOKS_S
    least = max(1, round(every_s)) if of_looks else store.MINUTE_S
    # one column more is no reason for columns twice as long
    step_s = least * max(1, -(-(round(length) - least) // (least * MOST_COLUMNS)))
    first = int(begin) // step_s * step_s
    return Span(first, -(-(int(end) - first) // step_s) or 1, step_s, of_looks)


def read_window(folder: Path, names: Sequence[str], span: Span) -> dict[str, Any]:
    """Everything that was stored of nodes in a span, as the page takes it."""
    table = _Table(folder, names, span)
    ib = [table.grid("ports", f"{way}_bytes_per_s", MEAN, "least") for way in ("in", "out")]
    eth = [table.grid("links", f"{way}_bytes_per_s", MEAN, "most") for way in ("in", "out")]
    ib_nodes, eth_nodes = (_of_nodes(ways, names) for ways in (ib, eth))
    power = table.grid("gpus", "power_w", MEAN, "least")
    maps = {
        "power": _map(power, "W"),
        "util": _map(table.grid("gpus", "util_pct", MEAN, "least"), "%"),
        "temp": _map(table.grid("gpus", "temp_c", MOST, "most"), "C"),
        "ib": _map(ib_nodes, "B/s", is_sqrt=True),
        "eth": _map(eth_nodes, "B/s", is_sqrt=True),
    }
    lines = {
        "ib_in": _line(_total(ib[0].values)),
        "ib_out": _line(_total(ib[1].values)),
        "power_w": _line(_total(table.grid("gpus", "power_w", MEAN, "mean").values)),
    }
    return {
        "begin": span.begin,
        "columns": span.columns,
        "step_s": span.step_s,
        "of_looks": span.of_looks,
        "nodes": list(names),
        "maps": maps,
        "lines": lines,
        "missing": _base64(table.missing()),
        "missing_of": table.fine_columns,
        "clocks": _base64(_clocks(folder, names, span)),
    }


class _Table:
    """The rows of a span, placed on columns as fine as they were stored."""

    def __init__(self, folder: Path, names: Sequence[str], span: Span) -> None:
        read = store.read_looks if span.of_looks else store.read_minutes
        self._names, self._span = names, span
        self._fine_s = span.step_s if span.of_looks else store.MINUTE_S
        self._rows = read(folder, span.begin, span.end, names)
        self._records = [unpack(rows.blobs, rows.layout) for rows in self._rows]
        self._places = [
            (np.array(rows.unix_s, np.int64) - span.begin) // self._fine_s for rows in self._rows
        ]

    @property
    def fine_columns(self) -> int:
        """Stored columns in one of the span."""
        return self._span.step_s // self._fine_s

    def grid(self, part: str, key: str, which: int, reduce: Reduce) -> Grid:
        """One number of a part: a row for each GPU; of ports and interfaces, for each node."""
        items = self._items(part)
        index = {row: i for i, row in enumerate(items)}
        found: Floats = np.full(
            (len(items), self._span.columns * self.fine_columns), np.nan, dtype=np.float32
        )
        for rows, records, places in zip(self._rows, self._records, self._places, strict=True):
            if part not in (records.dtype.names or ()):
                continue
            of_part = numbers(records, part, key)
            if not self._span.of_looks:
                of_part = of_part[which::3]
            if part == "gpus":
                for i, gpu in enumerate(rows.layout.gpus):
                    found[index[rows.node, gpu], places] = of_part[:, i]
            else:
                found[index[rows.node, None], places] = _total(of_part.T)
        return Grid(tuple(items), _reduced(found, self.fine_columns, reduce))

    def missing(self) -> NDArray[np.uint8]:
        """Numbers of stored columns, for each of the span, that lack a node: [nodes, columns]."""
        there: Any = np.zeros((len(self._names), self._span.columns * self.fine_columns), np.uint8)
        index = {name: i for i, name in enumerate(self._names)}
        for rows, places in zip(self._rows, self._places, strict=True):
            there[index[rows.node], places] = 1
        split = there.reshape(len(self._names), self._span.columns, self.fine_columns)
        return np.minimum((1 - split).sum(axis=2), 255).astype(np.uint8)

    def _items(self, part: str) -> list[tuple[str, int | None]]:
        if part != "gpus":
            return [(name, None) for name in self._names]
        gpus: dict[str, set[int]] = {name: set() for name in self._names}
        for rows in self._rows:
            gpus[rows.node] |= set(rows.layout.gpus)
        return [(name, gpu) for name in self._names for gpu in sorted(gpus[name])]


def _reduced(fine: Floats, by: int, reduce: Reduce) -> Floats:
    if by == 1:
        return fine
    split = fine.reshape(fine.shape[0], -1, by)
    missing = np.isnan(split)
    nothing = missing.all(axis=2)
    if reduce == "mean":
        found = np.nansum(split, axis=2) / np.maximum((~missing).sum(axis=2), 1)
    elif reduce == "least":
        found = np.where(missing, np.inf, split).min(axis=2)
    else:
        found = np.where(missing, -np.inf, split).max(axis=2)
    return np.where(nothing, np.nan, found).astype(np.float32)


def _total(values: Floats) -> Floats:
    """The sum of what is known down the rows; NaN where nothing is."""
    sums = np.nansum(values, axis=0)
    return np.where(np.isnan(values).all(axis=0), np.nan, sums).astype(np.float32)


def _of_nodes(ways: Sequence[Grid], names: Sequence[str]) -> Grid:
    both = np.stack([way.values for way in ways])
    total = np.stack([_total(both[:, row]) for row in range(len(names))])
    return Grid(ways[0].rows, total)


def _clocks(folder: Path, names: Sequence[str], span: Span) -> NDArray[np.float32]:
    """Offsets in ms, the largest of a column: [nodes, columns]."""
    found: Floats = np.full((len(names), span.columns), np.nan, dtype=np.float32)
    index = {name: i for i, name in enumerate(names)}
    for row in store.read_clocks(folder, span.begin, span.end, names):
        cell = index[row.node], (row.unix_s - span.begin) // span.step_s
        offset_ms = row.offset_s * 1000
        if not abs(found[cell]) > abs(offset_ms):
            found[cell] = offset_ms
    return found


def _map(grid: Grid, unit: str, *, is_sqrt: bool = False) -> dict[str, Any]:
    lo, hi = _range(grid.values)
    share = (grid.values - lo) / (hi - lo)
    share = np.sqrt(share) if is_sqrt else share
    cells = np.where(np.isnan(share), 255, np.rint(np.nan_to_num(share) * 254)).astype(np.uint8)
    rows = [[node, gpu] for node, gpu in grid.rows]
    return {
        "unit": unit,
        "lo": lo,
        "hi": hi,
        "sqrt": is_sqrt,
        "rows": rows,
        "cells": _base64(cells),
    }


def _line(values: Floats) -> dict[str, Any]:
    lo, hi = _range(values)
    share = np.nan_to_num((values - lo) / (hi - lo))
    points = np.where(np.isnan(values), 65535, np.rint(share * 65534)).astype("<u2")
    return {"lo": lo, "hi": hi, "points": _base64(points)}


def _range(values: Floats) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not known.size:
        return 0.0, 1.0
    lo, hi = float(known.min()), float(known.max())
    return (lo, hi) if hi > lo else (lo, lo + 1.0)


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
