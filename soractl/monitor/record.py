"""Records of a node as bytes: the numbers of one look, or their mean, least and most of a minute.

A record is an array of unsigned numbers in fixed units, the largest of each kind is "unknown".
A node with 8 GPUs, 9 ports and 4 interfaces takes 207 bytes a look.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from soractl.monitor.sample import Values

VERSION = 1  # of the columns below; stored with each layout

Floats: TypeAlias = "NDArray[np.float32]"
_STRUCT_CODES = {"<u1": "B", "<u2": "H", "<u4": "I"}


@dataclass(frozen=True)
class Column:
    """A number of a part of a node: its kind of integer, and the size of one unit."""

    key: str
    kind: str
    unit: float

    @property
    def unknown(self) -> int:
        """The integer that says that the number is not known."""
        return int(np.iinfo(self.kind).max)


RATES = (Column("in_bytes_per_s", "<u4", 1000), Column("out_bytes_per_s", "<u4", 1000))
PARTS: Mapping[str, tuple[Column, ...]] = {
    "node": (
        Column("load", "<u2", 0.01),
        Column("cpu_pct", "<u1", 0.5),
        Column("mem_available_mib", "<u4", 1),
    ),
    "gpus": (
        Column("power_w", "<u2", 0.1),
        Column("util_pct", "<u1", 1),
        Column("temp_c", "<u1", 1),
        Column("clock_mhz", "<u2", 1),
        Column("mem_mib", "<u4", 1),
        Column("reasons", "<u2", 1),
    ),
    "ports": RATES,
    "links": RATES,
}


@dataclass(frozen=True)
class Layout:
    """The parts that a node has, in the order of their numbers in a record."""

    gpus: tuple[int, ...] = ()
    ports: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, tuple[Any, ...]]:
        """The items of each part; the node itself is one."""
        return {"node": ("",), "gpus": self.gpus, "ports": self.ports, "links": self.links}

    @property
    def dtype(self) -> np.dtype[Any]:
        """The record's type: of the node one row of numbers, of the other parts one an item."""
        return np.dtype(
            [
                (part, [(one.key, one.kind) for one in PARTS[part]], (len(items),))
                for part, items in self.parts.items()
                if items
            ]
        )

    def as_json(self) -> dict[str, Any]:
        """As the store keeps it."""
        return {"version": VERSION, "gpus": self.gpus, "ports": self.ports, "links": self.links}


def layout_of(found: Values) -> Layout:
    """The layout of a node that has these numbers."""
    return Layout(tuple(sorted(found.gpus)), tuple(sorted(found.ports)), tuple(sorted(found.links)))


def layout_from(stored: Mapping[str, Any]) -> Layout | None:
    """A layout as it was stored; None for one of another version."""
    if stored.get("version") != VERSION:
        return None
    return Layout(*(tuple(stored[name]) for name in ("gpus", "ports", "links")))


def pack(found: Values, layout: Layout) -> bytes:
    """The numbers of one look."""
    whole, codes = [], ["<"]
    for part, items in layout.parts.items():
        of_part = getattr(found, part)
        for item in items:
            values = found.node if part == "node" else of_part.get(item, {})
            for column in PARTS[part]:
                whole.append(_whole(values.get(column.key), column))
                codes.append(_STRUCT_CODES[column.kind])
    return struct.pack("".join(codes), *whole)


def unpack(blobs: Sequence[bytes], layout: Layout) -> NDArray[Any]:
    """Records, one a blob; damaged ones were never whole and are left out by the store."""
    return np.frombuffer(b"".join(blobs), layout.dtype)


def numbers(records: NDArray[Any], part: str, key: str) -> Floats:
    """One number of all records, NaN where unknown: [records, items of the part].

    >>> layout = Layout(gpus=(0,))
    >>> blob = pack(Values(node={}, gpus={0: {"power_w": 612.3}}), layout)
    >>> numbers(unpack([blob], layout), "gpus", "power_w").tolist()
    [[612.2999877929688]]
    """
    column = _column(part, key)
    whole = records[part][key]
    found = (whole * np.float32(column.unit)).astype(np.float32)
    found[whole == column.unknown] = np.nan
    return cast(Floats, found)


def read(blob: bytes, layout: Layout) -> Values:
    """The numbers of one look, as `pack` got them; counters and words stand elsewhere."""
    records = unpack([blob], layout)

    def item(part: str, place: int) -> dict[str, float | None]:
        found = {one.key: float(numbers(records, part, one.key)[0, place]) for one in PARTS[part]}
        return {key: None if np.isnan(value) else value for key, value in found.items()}

    return Values(
        node=item("node", 0),
        gpus={gpu: item("gpus", place) for place, gpu in enumerate(layout.gpus)},
        ports={port: item("ports", place) for place, port in enumerate(layout.ports)},
        links={link: item("links", place) for place, link in enumerate(layout.links)},
    )


def summaries(blobs: Sequence[bytes], starts: Sequence[int], layout: Layout) -> list[bytes]:
    """Three records each: mean, least and most of the looks from one start to the next.

    Of bits it is all that were set.
    """
    looks = unpack(blobs, layout)
    found = np.zeros((len(starts), 3), layout.dtype)
    for part in layout.dtype.names or ():
        for column in PARTS[part]:
            known = numbers(looks, part, column.key)
            for place, value in enumerate(_summary(known, starts, is_bits=column.key == "reasons")):
                missing = np.isnan(value)
                whole = np.rint(np.nan_to_num(value) / column.unit).astype(column.kind)
                found[part][column.key][:, place] = np.where(missing, column.unknown, whole)
    return [record.tobytes() for record in found]


def _summary(known: Floats, starts: Sequence[int], *, is_bits: bool) -> tuple[Floats, ...]:
    missing = np.isnan(known)
    count = np.add.reduceat(~missing, starts, dtype=np.int64)
    if is_bits:
        bits = np.bitwise_or.reduceat(np.nan_to_num(known).astype(np.uint16), starts)
        every = np.where(count == 0, np.nan, bits)
        return every, every, every
    mean = np.add.reduceat(np.nan_to_num(known), starts) / np.maximum(count, 1)
    least = np.minimum.reduceat(np.where(missing, np.inf, known), starts)
    most = np.maximum.reduceat(np.where(missing, -np.inf, known), starts)
    return tuple(np.where(count == 0, np.nan, value) for value in (mean, least, most))


def _column(part: str, key: str) -> Column:
    return next(column for column in PARTS[part] if column.key == key)


def _whole(value: float | None, column: Column) -> int:
    """In units; what is beyond the kind's range is its largest known number."""
    if value is None:
        return column.unknown
    return min(max(round(value / column.unit), 0), column.unknown - 1)
