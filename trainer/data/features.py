"""Cached features on disk: latents and captions in shards that are there whole or not at all.

FOLDER/video-3f9c02ab/made_with.json              what the features depend on
FOLDER/video-3f9c02ab/v0-00000256.safetensors     variant 0, clips from row 256 on
FOLDER/video-3f9c02ab/index.json                  written last: all shards are there
FOLDER/text-90be11d4/...                          the same for captions, with one variant
"""

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainer.atomic_files import read_json, sync_to_disk, write_json
from trainer.settings import ConfigError

Kind = Literal["text", "video"]
KINDS: tuple[Kind, ...] = get_args(Kind)
INDEX = "index.json"
_MADE_WITH = "made_with.json"


class FeatureError(Exception):
    """Features cannot be read, though the index promises them; the message names the file."""


@dataclass(frozen=True)
class Shard:
    """The features of some clips, in one file."""

    variant: int
    rows: tuple[int, ...]  # of the table, rising

    @property
    def file_name(self) -> str:
        """`v0-00000256.safetensors`."""
        return f"v{self.variant}-{self.rows[0]:08d}.safetensors"


@dataclass(frozen=True)
class IndexEntry:
    """A complete shard, as `index.json` has it."""

    file: str
    variant: int
    first_row: int
    last_row: int
    clips: int  # that have features in it
    bytes: int


@dataclass(frozen=True)
class Index:
    """The contents of a complete set."""

    variants: int
    shards: tuple[IndexEntry, ...]  # by variant and row
    failed: Mapping[int, Mapping[int, str]]  # variant -> row -> why the clip has no features

    @property
    def clips(self) -> int:
        """Features, a clip's of each variant counted by itself."""
        return sum(shard.clips for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(shard.bytes for shard in self.shards)


class FeatureSet:
    """The folder of one kind of features, made with one set of settings."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, folder: Path, kind: Kind, made_with: Mapping[str, str]) -> "FeatureSet":
        """The set in which features with these settings lie, or will."""
        text = json.dumps(made_with, sort_keys=True)
        return cls(folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}")

    @property
    def made_with(self) -> dict[str, str]:
        """Settings that the features depend on, by name; empty before `begin`."""
        return self._head.get("made_with", {})

    @property
    def clips_per_shard(self) -> int | None:
        """The size that the first `begin` has written."""
        return self._head.get("clips_per_shard")

    @property
    def _head(self) -> dict[str, Any]:
        try:
            return read_json(self.path / _MADE_WITH)
        except FileNotFoundError:
            return {}

    def begin(self, made_with: Mapping[str, str], clips_per_shard: int) -> None:
        """Make the folder, unless it is there."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.made_with:
            head = {"made_with": dict(made_with), "clips_per_shard": clips_per_shard}
            write_json(self.path / _MADE_WITH, head)

    def has(self, shard: Shard) -> bool:
        """True if a shard is complete."""
        return (self.path / shard.file_name).is_file()

    def write(self, shard: Shard, tensors: dict[str, Tensor], failed: Mapping[int, str]) -> None:
        """Publish a shard: aside, to the disk, and only then under its name."""
        final = self.path / shard.file_name
        draft = self.path / f".{final.name}.{socket.gethostname()}.{os.getpid()}.draft"
        save_file(tensors, draft, metadata={"failed": json.dumps(failed)})
        sync_to_disk(draft)
        draft.replace(final)
        sync_to_disk(self.path)

    def remove_drafts(self) -> None:
        """Drop what killed processes left half written."""
        for draft in self.path.glob(".*.draft"):
            draft.unlink(missing_ok=True)

    def failed_in(self, shard: Shard) -> dict[int, str]:
        """The clips of a complete shard that have no features, and why."""
        return _look_into(self.path / shard.file_name)[1]

    def finish(self, shards: Sequence[Shard], variants: int) -> Index:
        """Check that every clip is in its shard exactly once, and write the index."""
        missing = [shard.file_name for shard in shards if not self.has(shard)]
        if missing:
            raise ConfigError(
                [f"{self.path}: {len(missing)} shards are missing ({missing[0]}, ...)"]
            )
        entries: list[IndexEntry] = []
        failed: dict[int, dict[int, str]] = {}
        for shard in shards:
            file = self.path / shard.file_name
            rows, faults = _look_into(file)
            if sorted([*rows, *faults]) != list(shard.rows):
                raise ConfigError([f"{file} holds other clips than it should; `rm` it and go on"])
            size = file.stat().st_size
            first, last = shard.rows[0], shard.rows[-1]
            entries.append(IndexEntry(file.name, shard.variant, first, last, len(rows), size))
            failed.setdefault(shard.variant, {}).update(faults)
        index = Index(variants, tuple(entries), failed)
        write_json(self.path / INDEX, asdict(index))
        return index

    @cached_property
    def index(self) -> Index | None:
        """Contents of the set; None if it is not complete."""
        try:
            values = read_json(self.path / INDEX)
        except FileNotFoundError:
            return None
        return Index(
            variants=values["variants"],
            shards=tuple(IndexEntry(**entry) for entry in values["shards"]),
            failed={
                int(variant): {int(row): reason for row, reason in faults.items()}
                for variant, faults in values["failed"].items()
            },
        )

    def file_of(self, variant: int, row: int) -> Path:
        """The shard that has a clip, if any has."""
        first_rows, names = self._shards_by_row[variant]
        place = int(np.searchsorted(first_rows, row, side="right")) - 1
        return self.path / names[max(0, place)]

    @cached_property
    def _shards_by_row(self) -> dict[int, tuple[list[int], list[str]]]:
        assert self.index is not None
        by_variant: dict[int, tuple[list[int], list[str]]] = {}
        for shard in self.index.shards:
            first_rows, names = by_variant.setdefault(shard.variant, ([], []))
            first_rows.append(shard.first_row)
            names.append(shard.file)
        return by_variant


def cut_into_shards(variant: int, rows: Sequence[int], clips_per_shard: int) -> Iterator[Shard]:
    """Shards of so many clips each, in the order of the table."""
    for begin in range(0, len(rows), clips_per_shard):
        yield Shard(variant, tuple(int(row) for row in rows[begin : begin + clips_per_shard]))


def sets_in(folder: Path, kind: Kind) -> list[FeatureSet]:
    """All sets of a kind, complete or not."""
    found = [FeatureSet(path) for path in sorted(folder.glob(f"{kind}-*"))]
    return [features for features in found if features.made_with]


def latents_as_tensors(row: int, latents: Tensor, fps: float) -> dict[str, Tensor]:
    """Latents [4, t, h, w] of a clip and its frames per second, as a shard holds them."""
    return {f"latents.{row}": latents.contiguous(), f"fps.{row}": torch.tensor(fps)}


def caption_as_tensors(row: int, features: Tensor) -> dict[str, Tensor]:
    """A caption's features [tokens, width], as a shard holds them."""
    return {f"caption.{row}": features}


def read_latents(file: Path, row: int) -> tuple[Tensor, float]:
    """Latents [4, t, h, w] of a clip, and its frames per second."""
    latents, fps = _read(file, lambda tensors: (tensors(f"latents.{row}"), tensors(f"fps.{row}")))
    return latents, float(fps)


def read_caption(file: Path, row: int) -> Tensor:
    """A caption's features [tokens, width]."""
    [features] = _read(file, lambda tensors: (tensors(f"caption.{row}"),))
    return features


def _read(
    file: Path, take: Callable[[Callable[[str], Tensor]], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    try:
        with safe_open(file, "pt") as tensors:
            return take(tensors.get_tensor)
    except (OSError, SafetensorError) as error:
        raise FeatureError(f"{file}: {error}") from None


def _look_into(file: Path) -> tuple[list[int], dict[int, str]]:
    """The rows that have features in a shard, and why others have none."""
    try:
        with safe_open(file, "pt") as tensors:
            names, faults = tensors.keys(), json.loads(tensors.metadata()["failed"])
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ConfigError(
            [f"{file} is no shard of features ({error}); `rm` it and go on"]
        ) from None
    rows = [int(name.rpartition(".")[2]) for name in names if not name.startswith("fps.")]
    return sorted(rows), {int(row): reason for row, reason in faults.items()}
