"""Group norm and SiLU of channels-last tensors on a GPU, reading them twice and writing them once.

The library's group norm wants channels first, so that between two convolutions, which want them
last, each tensor would be turned around twice.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_PLACES = 1024  # that a program sums up


def norm_and_silu(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """SiLU of the normalised x [B, C, *size], channels last in memory; no gradient."""
    batch, channels = x.shape[:2]
    places = x[0, 0].numel()
    chunks = triton.cdiv(places, _PLACES)
    moments = x.new_empty(batch, chunks, 2, channels, dtype=torch.float32)
    columns = min(triton.next_power_of_2(channels), 128)
    tile = {"C": columns, "P": max(1, 4096 // columns)}
    blocks = triton.cdiv(channels, columns)
    _moments[(batch, chunks, blocks)](x, moments, places, chunks, channels, _PLACES, **tile)
    scale = x.new_empty(batch, 2, channels, dtype=torch.float32)
    _scales[(batch, groups)](
        moments, weight, bias, scale, eps, places, chunks, channels, channels // groups, _PLACES,
        C=triton.next_power_of_2(channels // groups), K=triton.next_power_of_2(chunks),
    )  # fmt: skip
    out = torch.empty_like(x)
    _apply[(batch, triton.cdiv(places, tile["P"]), blocks)](x, scale, out, places, channels, **tile)
    return out


@triton.jit(do_not_specialize=["places", "chunks"])
def _moments(
    x, moments, places, chunks, channels, size: tl.constexpr, C: tl.constexpr, P: tl.constexpr
):
    """Mean and sum of squared deviations of each channel in a chunk of places."""
    sample, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(2) * C + tl.arange(0, C)[None, :]
    first = chunk * size
    count = tl.minimum(size, places - first)
    total = tl.zeros([P, C], tl.float32)
    squares = tl.zeros([P, C], tl.float32)
    # deviations are taken from a value of the chunk, so that squares of large means cancel nothing
    start = x + sample * places * channels + channel
    origin = tl.load(start + first * channels, channel < channels, 0.0).to(tl.float32)
    for step in range(0, size, P):
        place = first + step + tl.arange(0, P)[:, None]
        inside = (place < places) & (channel < channels)
        away = tl.load(start + place * channels, inside, 0.0).to(tl.float32) - origin
        away = tl.where(inside, away, 0.0)
        total += away
        squares += away * away
    mean = tl.sum(total, 0) / count
    spread = tl.sum(squares, 0) - mean * mean * count
    column = tl.program_id(2) * C + tl.arange(0, C)
    out = moments + (sample * chunks + chunk) * 2 * channels + column
    tl.store(out, mean + tl.sum(origin, 0), column < channels)
    tl.store(out + channels, spread, column < channels)


@triton.jit(do_not_specialize=["places", "chunks"])
def _scales(
    moments, weight, bias, scale, eps, places, chunks, channels, width,
    size: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """What each channel is multiplied with and what is added to it."""
    sample, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    chunk, column = tl.arange(0, K)[:, None], tl.arange(0, C)[None, :]
    inside = (chunk < chunks) & (column < width)
    place = moments + (sample * chunks + chunk) * 2 * channels + group * width + column
    count = tl.where(inside, tl.minimum(size, places - chunk * size), 0)
    means = tl.load(place, inside, 0.0)
    mean = tl.sum(means * count) / (places * width)
    away = tl.where(inside, means - mean, 0.0)
    spread = tl.sum(tl.load(place + channels, inside, 0.0) + away * away * count)
    inverse = tl.rsqrt(spread / (places * width) + eps)
    channel = group * width + tl.arange(0, C)
    mine = tl.arange(0, C) < width
    factor = tl.load(weight + channel, mine, 0.0).to(tl.float32) * inverse
    term = tl.load(bias + channel, mine, 0.0).to(tl.float32) - mean * factor
    out = scale + sample * 2 * channels + channel
    tl.store(out, factor, mine)
    tl.store(out + channels, term, mine)


@triton.jit(do_not_specialize=["places"])
def _apply(x, scale, out, places, channels, C: tl.constexpr, P: tl.constexpr):
    sample = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * P + tl.arange(0, P)[:, None]
    channel = tl.program_id(2) * C + tl.arange(0, C)[None, :]
    inside = (place < places) & (channel < channels)
    at = (sample * places + place) * channels + channel
    factors = scale + sample * 2 * channels + channel
    factor = tl.load(factors, channel < channels, 0.0)
    term = tl.load(factors + channels, channel < channels, 0.0)
    normal = tl.load(x + at, inside, 0.0).to(tl.float32) * factor + term
    tl.store(out + at, normal * tl.sigmoid(normal), inside)
