"""Seconds and memory of a micro batch of one bucket, by formula and measured rates. Pure."""

from typing import TYPE_CHECKING

from soractl.estimate.rates import CAPTION_TOKENS, T5_BYTES, VAE_BYTES, GpuRates, Network

if TYPE_CHECKING:
    from trainer.data.buckets import Bucket

_PASSES = 3  # forward, and backward as two of it
_STATE_BYTES = 4  # of a parameter on each rank: weights and gradients in bf16
_SHARED_BYTES = 16  # of a parameter, shared out: master, two moments and average in fp32
_BYTES_A_TOKEN = 2.1e6 / (28 * 1152)  # kept for the backward pass, by depth and width


def model_s(bucket: "Bucket", network: Network, gpu: GpuRates) -> float:
    """Seconds of forward and backward; the update, 0.05 s, is part of the rates."""
    dense, in_frames = flops(bucket, network)
    return _PASSES * (dense / gpu.dense_flops + in_frames / gpu.frame_attention_flops)


def flops(bucket: "Bucket", network: Network) -> tuple[float, float]:
    """Of a forward pass: all but attention in frames, and that.

    As `trainer.model.flops` counts, without the layers at both ends.
    """
    width, tokens = network.width, bucket.tokens
    captions = bucket.batch_size * CAPTION_TOKENS
    linear = 2 * (28 * width**2 * tokens + 4 * width**2 * captions)
    cross_attention = 8 * width * tokens * CAPTION_TOKENS
    over_time = 4 * width * tokens * bucket.latent_frames
    in_frames = 4 * width * tokens * bucket.patches
    return network.depth * (linear + cross_attention + over_time), network.depth * in_frames


def encoders_s(bucket: "Bucket", gpu: GpuRates) -> float:
    """Seconds of VAE and T5, where features are not cached."""
    pixels = bucket.batch_size * bucket.frames * bucket.height * bucket.width
    rate = gpu.picture_pixels if bucket.frames == 1 else gpu.vae_pixels
    return pixels / rate + bucket.batch_size * CAPTION_TOKENS / gpu.caption_tokens


def memory(
    bucket: "Bucket", network: Network, *, ranks: int, tokens_at_once: int, cached: bool
) -> float:
    """Bytes that a rank holds at most, of what torch allocates.

    A part has the number of clips that comes nearest to `tokens_at_once` tokens (0: the whole
    batch); what it has more than that is recomputed.
    """
    state = network.parameters * (_STATE_BYTES + _SHARED_BYTES / ranks)
    clip = bucket.latent_frames * bucket.patches
    kept = clip * bucket.batch_size
    if tokens_at_once:
        part = max(1, round(tokens_at_once / clip)) * clip
        kept = min(kept, part, tokens_at_once)
    encoders = 0 if cached else T5_BYTES + VAE_BYTES
    return state + kept * _BYTES_A_TOKEN * network.depth * network.width + encoders
