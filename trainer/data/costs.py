"""Cost of a micro batch of each bucket: the seconds measured, or else the work of its shape."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.data.buckets import Bucket

# Floating-point operations of a training step of STDiT3-XL/2 with the whole VAE and T5 XXL; only
# their proportions matter, and those hold for its sisters.
_WIDTH, _DEPTH, _CAPTION = 1152, 28, 300
_PASSES = 4  # forward, backward (twice a forward), and forward again for the checkpointed blocks
_FLOPS_PER_TOKEN = _PASSES * 2 * _DEPTH * _WIDTH * (28 * _WIDTH + 4 * _CAPTION)
_FLOPS_PER_PAIR = _PASSES * 4 * _DEPTH * _WIDTH  # of tokens that attend to each other
_FLOPS_PER_PIXEL = 6.1e6  # the VAE's encoder
_FLOPS_PER_CLIP = 3.2e12  # T5, and the caption in the transformer

FloatArray = np.ndarray[Any, Any]


def work(bucket: Bucket) -> float:
    """About the floating-point operations of a micro batch."""
    tokens = bucket.latent_frames * bucket.patches
    pairs = tokens * (bucket.latent_frames + bucket.patches)
    pixels = bucket.frames * bucket.height * bucket.width
    clip = (
        tokens * _FLOPS_PER_TOKEN
        + pairs * _FLOPS_PER_PAIR
        + pixels * _FLOPS_PER_PIXEL
        + _FLOPS_PER_CLIP
    )
    return bucket.batch_size * clip


def costs_of(buckets: Sequence[Bucket], seconds: Mapping[str, float]) -> FloatArray:
    """Cost of a micro batch, by bucket.

    `seconds` are what micro batches took, by the bucket's name; the others count as if they had the
    average speed of these.
    """
    by_work = np.array([work(bucket) for bucket in buckets])
    measured = np.array([seconds.get(bucket.name, np.nan) for bucket in buckets])
    known = np.isfinite(measured) & (by_work > 0)  # a bucket that takes nothing shows no speed
    if not known.any():
        return by_work
    speed = by_work[known].sum() / measured[known].sum()
    return np.where(known, measured, by_work / speed)
