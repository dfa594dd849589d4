"""Offline files of Weights & Biases: which media they hold.

The format (wandb 0.31): 7 bytes, then blocks of 32 KiB with pieces of records: checksum (4 bytes),
size (2), kind (1: whole, 2: first, 3: middle, 4: last piece), and the bytes of a protobuf Record.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEADER = 7
_BLOCK = 32 * 2**10
_LAST_PIECES = (1, 4)
_MEDIA = {"video-file", "image-file"}


def records(content: bytes) -> Iterator[Any]:
    """Every record; a file that a killed process left half written ends early."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # has no stubs
    from wandb.proto.wandb_internal_pb2 import Record

    place, whole = _HEADER, b""
    while place + _HEADER <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        piece = content[place + _HEADER : place + _HEADER + size]
        if len(piece) < size:
            return
        whole += piece
        place += _HEADER + size
        if kind in _LAST_PIECES:
            try:
                yield Record.FromString(whole)
            except DecodeError:
                return
            whole = b""


def offline_files(folder: Path) -> list[Path]:
    """The files of all offline runs in a folder `wandb/`, oldest first."""
    return sorted(folder.glob("offline-run-*/*.wandb"))


def media_in(folder: Path) -> set[tuple[str, int]]:
    """(key, global step) of every video and picture in the offline runs of a folder `wandb/`."""
    return {found for file in offline_files(folder) for found in media_of(file)}


def media_of(file: Path) -> Iterator[tuple[str, int]]:
    """(key, global step) of the videos and pictures in one offline file, in its order.

    Their row names the step under the key's axis, `eval_PRESET/global_step`.
    """
    for record in records(file.read_bytes()):
        row = _row(record)
        for key, kinds in row.items():
            step = row.get(f"{key.rpartition('/')[0]}/global_step")
            if step and not _MEDIA.isdisjoint(map(str, kinds.values())):
                yield key, int(step[""])


def _row(record: Any) -> dict[str, dict[str, Any]]:
    """A history row: by key the values under it, of which a plain one stands under ''."""
    row: dict[str, dict[str, Any]] = {}
    for item in record.history.item:
        key, *below = list(item.nested_key) or [item.key]
        row.setdefault(key, {})["/".join(below)] = json.loads(item.value_json)
    return row
