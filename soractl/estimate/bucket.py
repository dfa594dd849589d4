"""Seconds and memory of a micro batch of one bucket, by formula and measured rates. Pure."""

from typing import TYPE_CHECKING

from soractl.estimate.rates import CAPTION_TOKENS, NETWORKS, T5_BYTES, VAE_BYTES, GpuRates, Network
from trainer.config import ModelConfig

if TYPE_CHECKING:
    from trainer.data.buckets import Bucket

_PASSES = 3  # forward, and backward as two of it
_STATE_BYTES = 4  # of a parameter on each rank: weights and gradients in bf16
_SHARED_BYTES = 16  # of a parameter, shared out: master, two moments and average in fp32
_BYTES_A_TOKEN = 2.1e6 / (28 * 1152)  # kept for the backward pass, by depth and width
_INPUT = 1 / 16  # of a block's activations, which a recomputed one keeps too


def model_s(bucket: "Bucket", model: ModelConfig, gpu: GpuRates) -> float:
    """Seconds of forward and backward; the update, 0.05 s, is part of the rates."""
    dense, in_frames = flops(bucket, NETWORKS[model.arch])
    passes = _PASSES + recomputed(bucket, model)
    return passes * (dense / gpu.dense_flops + in_frames / gpu.frame_attention_flops)


def recomputed(bucket: "Bucket", model: ModelConfig) -> float:
    """Share of the blocks whose forward pass is made again, as `trainer.model.stdit3` has it."""
    if model.grad_checkpoint == "none":
        return 0.0
    every = 1 if model.grad_checkpoint == "every_block" else int(model.grad_checkpoint)
    blocks = 2 * NETWORKS[model.arch].depth
    room = blocks * model.tokens_at_once / _part(bucket, model)
    kept = max(0, int((room - blocks * _INPUT) / (1 - _INPUT)))
    return max(0, blocks - kept) / every / blocks


def _part(bucket: "Bucket", model: ModelConfig) -> int:
    """Tokens that go through the network together: clips in as even parts as `tokens_at_once` asks.

    As `trainer.chunks` makes them.
    """
    clip, clips = bucket.latent_frames * bucket.patches, max(1, bucket.batch_size)
    if not model.tokens_at_once:
        return clips * clip
    parts = -(-clips // max(1, round(model.tokens_at_once / clip)))
    return -(-clips // parts) * clip


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


def memory(bucket: "Bucket", model: ModelConfig, *, ranks: int, cached: bool) -> float:
    """Bytes that a rank holds at most, of what torch allocates."""
    network, again = NETWORKS[model.arch], recomputed(bucket, model)
    state = network.parameters * (_STATE_BYTES + _SHARED_BYTES / ranks)
    kept = _part(bucket, model) * (1 - again + again * _INPUT)
    encoders = 0 if cached else T5_BYTES + VAE_BYTES
    return state + kept * _BYTES_A_TOKEN * network.depth * network.width + encoders
