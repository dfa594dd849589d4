"""Cached features that training reads instead of encoding: the sets in `data.features`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainer.config import TrainConfig
from trainer.data.buckets import Bucket
from trainer.data.dataset import ClipTable
from trainer.data.feature_identity import matching_set
from trainer.data.features import FeatureSet, read_caption
from trainer.model.latent_size import LATENT_CHANNELS, SPATIAL_FACTOR, latent_frames
from trainer.precision import DTYPES
from trainer.remedy import Remedy, with_remedy
from trainer.settings import ConfigError


@dataclass(frozen=True)
class CachedLatents:
    """Latents of each clip, in one variant or several."""

    features: FeatureSet
    variants: int
    micro_frame_size: int
    dtype: torch.dtype

    def place_of(self, epoch: int, row: int) -> tuple[Path, int]:
        """The shard and the row of a clip's latents in an epoch."""
        return self.features.file_of(epoch % self.variants, row), row

    def fault_of(self, epoch: int, row: int) -> str | None:
        """The reason why a clip has no latents in an epoch, if so."""
        assert self.features.index is not None
        return self.features.index.failed.get(epoch % self.variants, {}).get(row)

    def zeros(self, bucket: Bucket, count: int) -> Tensor:
        """[B, 4, t, h, w] for so many clips of a bucket."""
        frames = latent_frames(bucket.frames, self.micro_frame_size)
        size = bucket.height // SPATIAL_FACTOR, bucket.width // SPATIAL_FACTOR
        return torch.zeros(count, LATENT_CHANNELS, frames, *size, dtype=self.dtype)


@dataclass(frozen=True)
class CachedFeatures:
    """The cached features; for a kind that is None, training has an encoder."""

    latents: CachedLatents | None = None
    captions: FeatureSet | None = None

    def draw_of(self, epoch: int) -> int:
        """The epoch whose draws of buckets and windows an epoch takes: its own, or its variant."""
        return epoch % self.latents.variants if self.latents else epoch

    def captions_of(self, rows: Sequence[int]) -> list[Tensor] | None:
        """Features [tokens, C] of each clip's caption, if they are cached."""
        if self.captions is None:
            return None
        return [read_caption(self.captions.file_of(0, row), row) for row in rows]


def open_features(settings: TrainConfig, clips: ClipTable) -> CachedFeatures:
    """The features in `data.features` for these settings; ConfigError if they are of others."""
    if settings.data.features is None:
        return CachedFeatures()
    folder = Path(settings.data.features)
    video = matching_set(folder, "video", settings, clips)
    text = matching_set(folder, "text", settings, clips)
    if video is None and text is None:
        error = ConfigError([f"data.features = {folder}: no features are there"])
        raise with_remedy(error, Remedy(encode_features=folder))
    if video is None:
        return CachedFeatures(captions=text)
    assert video.index is not None
    dtype = DTYPES[settings.trainer.dtype]
    micro_frame_size = settings.vae.micro_frame_size
    return CachedFeatures(CachedLatents(video, video.index.variants, micro_frame_size, dtype), text)
