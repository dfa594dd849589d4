"""Floating-point operations of a forward pass of STDiT3."""

import math

from trainer.model.layers import SINUSOID_WIDTH
from trainer.model.stdit3 import STDiT3Config


def forward_flops(
    config: STDiT3Config, batch: int, frames: int, height: int, width: int, caption_tokens: int
) -> int:
    """FLOPs of the matrix products for latents [B, 4, T, H, W], a multiply-add counted as 2.

    `caption_tokens` are those of all captions of the batch together. A training step takes three
    times as many, and those of every block that is recomputed once more. Counted as in appendix F
    of Hoffmann et al. 2022 (arXiv 2203.15556): matrix products alone, no norm, no softmax.
    """
    sizes = zip((frames, height, width), config.patch_size, strict=True)
    token_frames, rows, columns = (-(-size // patch) for size, patch in sizes)
    spatial_tokens = rows * columns
    tokens = batch * token_frames * spatial_tokens
    c = config.hidden_size
    hidden = int(c * config.mlp_ratio)

    # twice as many multiply-adds: queries, keys, values and both projections, then the MLP
    linear = 2 * tokens * (6 * c * c + 2 * c * hidden) + 4 * caption_tokens * c * c
    cross_attention = 4 * c * token_frames * spatial_tokens * caption_tokens
    within_frames = 4 * c * tokens * spatial_tokens
    over_time = 4 * c * tokens * token_frames
    blocks = config.depth * (2 * linear + 2 * cross_attention + within_frames + over_time)

    values = math.prod(config.patch_size) * (config.in_channels + config.out_channels)
    ends = 2 * tokens * c * values
    captions = 2 * caption_tokens * (config.caption_channels * c + c * c)
    conditioning = 2 * batch * (2 * (SINUSOID_WIDTH * c + c * c) + 6 * c * c)
    return blocks + ends + captions + conditioning
