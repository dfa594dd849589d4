"""Encodes a stage's clips and captions, each once: what to do, a rank's share of it, the end."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.atomic_files import write_json
from trainer.config import TrainConfig
from trainer.data.batch_sampler import MicroBatch
from trainer.data.buckets import assign_epoch
from trainer.data.dataset import ClipTable, load_clips
from trainer.data.feature_identity import made_with
from trainer.data.features import (
    FeatureSet,
    Kind,
    Shard,
    caption_as_tensors,
    cut_into_shards,
    latents_as_tensors,
)
from trainer.data.loader import ClipLoader
from trainer.model import build as networks
from trainer.model.latent_size import LATENT_CHANNELS, SPATIAL_FACTOR, latent_frames
from trainer.model.text_encoder import open_tokeniser
from trainer.precision import DTYPES
from trainer.seeds import derive_seed
from trainer.settings import ConfigError, resolve, without_nulls

_PROGRESS = ".progress"  # a file a rank: how many clips and captions it has done
_WRITE_EVERY_S = 1.0
_SAMPLED_CAPTIONS = 1000
_CAPTIONS_AT_ONCE = 64
_MOST_FAILED = 1000  # clips that the answer names; the index has all


@dataclass(frozen=True)
class Job:
    """The settings and kinds of features that a command asks for."""

    settings: TrainConfig
    folder: Path
    kinds: tuple[Kind, ...]
    variants: int  # of the latents: draws of bucket, window and posterior
    clips_per_shard: int


@dataclass(frozen=True)
class Part:
    """One kind of features: where they go, and all shards they will be in."""

    kind: Kind
    features: FeatureSet
    made_with: Mapping[str, str]
    variants: int
    clips_per_shard: int
    shards: tuple[Shard, ...]


def read_job(values: Mapping[str, Any]) -> Job:
    """A job as `soractl` hands it over."""
    return Job(
        settings=resolve(TrainConfig, [("the job", without_nulls(values["settings"]))])[0],
        folder=Path(values["folder"]),
        kinds=tuple(values["kinds"]),
        variants=values["variants"],
        clips_per_shard=values["clips_per_shard"],
    )


def plan(job: Job) -> dict[str, Any]:
    """The amount of work, the size of its result, and the part that is done already."""
    clips = load_clips(Path(job.settings.data.path))
    return {
        "parts": [
            {
                "kind": part.kind,
                "path": str(part.features.path),
                "variants": part.variants,
                "clips": sum(len(shard.rows) for shard in part.shards),
                "done_clips": sum(
                    len(shard.rows) for shard in part.shards if part.features.has(shard)
                ),
                "bytes": _bytes_of(part, job.settings, clips),
            }
            for part in _parts(job, clips)
        ]
    }


def work(job: Job, rank: int, local_rank: int, world_size: int) -> None:
    """Encode a rank's share of the shards, but for those that are there."""
    clips = load_clips(Path(job.settings.data.path))
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    progress = _Progress(job.folder / _PROGRESS / f"{rank}.json")
    for part in _parts(job, clips):
        part.features.begin(part.made_with, part.clips_per_shard)
        missing = []
        for shard in part.shards[rank::world_size]:
            if part.features.has(shard):
                progress.advance(len(shard.rows), len(part.features.failed_in(shard)))
            else:
                missing.append(shard)
        if missing:
            share = _Share(job.settings, clips, part.features, missing, device, progress)
            share.encode_captions() if part.kind == "text" else share.encode_clips()
    progress.write()


def finish(job: Job) -> dict[str, Any]:
    """Write the indexes, and say what is in them."""
    clips = load_clips(Path(job.settings.data.path))
    parts = []
    for part in _parts(job, clips):
        index = part.features.finish(part.shards, part.variants)
        part.features.remove_drafts()
        failed = {row: why for faults in index.failed.values() for row, why in faults.items()}
        parts.append(
            {
                "kind": part.kind,
                "path": str(part.features.path),
                "variants": part.variants,
                "clips": index.clips,
                "bytes": index.bytes,
                "failed": sum(map(len, index.failed.values())),
                "reasons": dict(Counter(failed.values()).most_common()),
                "failed_clips": [
                    {"path": clips.path_of(row), "reason": why}
                    for row, why in list(failed.items())[:_MOST_FAILED]
                ],
            }
        )
    return {"parts": parts}


class _Progress:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._done = self._failed = self._pixels = 0
        self._written = 0.0
        file.parent.mkdir(parents=True, exist_ok=True)

    def advance(self, done: int, failed: int, pixels: int = 0) -> None:
        self._done += done
        self._failed += failed
        self._pixels += pixels
        if time.monotonic() > self._written + _WRITE_EVERY_S:
            self.write()

    def write(self) -> None:
        progress = {"done": self._done, "failed": self._failed, "pixels": self._pixels}
        write_json(self._file, progress, durable=False)
        self._written = time.monotonic()


def _parts(job: Job, clips: ClipTable) -> list[Part]:
    parts = []
    for kind in job.kinds:
        wanted = made_with(kind, job.settings, clips)
        features = FeatureSet.of(job.folder, kind, wanted)
        size = features.clips_per_shard or job.clips_per_shard
        variants = job.variants if kind == "video" else 1
        shards = [
            shard
            for variant in range(variants)
            for shard in cut_into_shards(variant, _rows(kind, job.settings, clips, variant), size)
        ]
        if not shards:
            raise ConfigError([f"{job.settings.data.path}: no clip fits a bucket of this stage"])
        parts.append(Part(kind, features, wanted, variants, size, tuple(shards)))
    return parts


def _rows(kind: Kind, settings: TrainConfig, clips: ClipTable, variant: int) -> Sequence[int]:
    if kind == "text":
        return range(len(clips))
    rows: list[int] = np.flatnonzero(assign_epoch(clips, settings, variant).index >= 0).tolist()
    return rows


def _bytes_of(part: Part, settings: TrainConfig, clips: ClipTable) -> int:
    """Of the tensors: exact for latents; for captions from a sample of their lengths."""
    item = DTYPES[settings.trainer.dtype].itemsize
    if part.kind == "text":
        return round(len(clips) * _mean_caption(settings, clips) * item)
    elements = 0
    for variant in range(part.variants):
        assignment = assign_epoch(clips, settings, variant)
        for bucket, count in zip(assignment.buckets, assignment.counts, strict=True):
            frames = latent_frames(bucket.frames, settings.vae.micro_frame_size)
            area = (bucket.height // SPATIAL_FACTOR) * (bucket.width // SPATIAL_FACTOR)
            elements += int(count) * LATENT_CHANNELS * frames * area
    return elements * item


def _mean_caption(settings: TrainConfig, clips: ClipTable) -> float:
    """Elements of a caption's features, as cleaning leaves it or not."""
    encoder = settings.text_encoder
    tokeniser, width = open_tokeniser(None if encoder.arch == "smoke" else encoder.weights)
    rows = np.unique(np.linspace(0, len(clips) - 1, _SAMPLED_CAPTIONS).astype(int))
    found = [len(tokeniser(caption).input_ids) for caption in clips.captions_of(rows.tolist())]
    return float(np.minimum(found, encoder.max_length).mean()) * width


@dataclass(frozen=True)
class _Share:
    """A rank's missing shards of one kind of features, and all that it takes to write them."""

    settings: TrainConfig
    clips: ClipTable
    features: FeatureSet
    shards: Sequence[Shard]
    device: torch.device
    progress: _Progress

    def encode_captions(self) -> None:
        """Write the shards of captions."""
        settings, dtype = self.settings, DTYPES[self.settings.trainer.dtype]
        encoder = networks.build_caption_encoder(
            settings.text_encoder, settings.seed, device=self.device, dtype=dtype
        )
        for shard in self.shards:
            tensors: dict[str, Tensor] = {}
            captions = self.clips.captions_of(shard.rows)
            for at in range(0, len(captions), _CAPTIONS_AT_ONCE):
                rows = shard.rows[at : at + _CAPTIONS_AT_ONCE]
                found = encoder.encode_each(captions[at : at + _CAPTIONS_AT_ONCE])
                for row, features_of_row in zip(rows, found, strict=True):
                    tensors |= caption_as_tensors(row, features_of_row.cpu())
                self.progress.advance(len(rows), 0)
            self.features.write(shard, tensors, {})

    def encode_clips(self) -> None:
        """Encode clips as training would in the epoch whose number is the variant's."""
        settings, dtype = self.settings, DTYPES[self.settings.trainer.dtype]
        vae = networks.build_vae(settings.vae, settings.seed, device=self.device, dtype=dtype)
        reading = settings.data
        reading = replace(reading, prefetch=max(reading.prefetch, 2 * reading.workers))
        faults: dict[int, str] = {}  # an unreadable clip is named once, and then not tried again
        with ClipLoader(self.clips, seed=settings.seed, settings=reading) as loader:
            for variant, group in groupby(self.shards, lambda shard: shard.variant):
                own = list(group)
                batches = loader.batches(variant, _one_by_one(settings, self.clips, own))
                for shard in own:
                    tensors: dict[str, Tensor] = {}
                    for row in shard.rows:
                        batch = next(batches)
                        faults |= {clip.row: clip.reason for clip in batch.skipped}
                        pixels = 0 if batch.is_empty else batch.video[:, 0].numel()
                        self.progress.advance(1, batch.is_empty, pixels)
                        if batch.is_empty:
                            continue
                        seed = derive_seed(settings.seed, variant, row, "posterior")
                        with torch.no_grad():
                            latents = vae.encode_each(batch.video.to(self.device, dtype), [seed])[0]
                        tensors |= latents_as_tensors(row, latents.cpu(), float(batch.fps[0]))
                    failed = {row: faults[row] for row in shard.rows if row in faults}
                    self.features.write(shard, tensors, failed)


def _one_by_one(
    settings: TrainConfig, clips: ClipTable, shards: Sequence[Shard]
) -> list[MicroBatch]:
    """Micro batches of one clip each, in the order of the shards, all of one variant."""
    assignment = assign_epoch(clips, settings, shards[0].variant)
    rows = [row for shard in shards for row in shard.rows]
    return [
        MicroBatch(number, assignment.buckets[int(assignment.index[row])], (row,))
        for number, row in enumerate(rows)
    ]
