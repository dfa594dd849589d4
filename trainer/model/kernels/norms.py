"""Sums and group norms of channels-last tensors on a GPU, in few passes over memory.

Between two convolutions lie a bias, a sum with the shortcut, a norm and SiLU. A bias shifts only
the mean of its channel, so it goes into the sum, or into what the norm multiplies and adds. A sum
finds the norm's moments on its way, and writes where the next convolution reads: with zeros before
or around it, or each value four times. The library's group norm wants channels first, so that each
tensor would be turned around twice.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_ENOUGH = 132 * 8  # programs to occupy an H100 or H200
_MOST_PLACES = 1024  # that a program sums up
_TILE = 4096  # values that a program holds


def moments(x: Tensor) -> Tensor:
    """Sums that `scales` takes of x [B, C, *size], channels last: [B, chunks, 2, C]."""
    return _sum_up(x, None, None, x)


def add(x: Tensor, y: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """x + y + bias [C], both [B, C, *size] channels last, and what `scales` takes of it."""
    out = torch.empty_like(x)
    return out, _sum_up(x, y, bias, out)


def add_into(
    x: Tensor, y: Tensor, bias: Tensor | None, *, before: int = 0, after: int = 0, times: int = 1
) -> Tensor:
    """x + y + bias with zeros around it, or larger; x and y are [B, C, *size], channels last.

    `before` frames of zeros come first; `after` rows and columns of zeros follow; each value stands
    `times` x `times` times.
    """
    *outer, height, width = x.shape
    if len(outer) == 3:
        outer[2] += before
    size = (*outer, times * height + after, times * width + after)
    out = _empty_like(x, size)
    _sum_into[_grid(out)](
        x, y, bias, out, x[0, 0].numel(), out[0, 0].numel(), x.shape[1],
        before * height * width, width, times * width + after, times, **_tile(x.shape[1]),
    )  # fmt: skip
    return out


def scales(found: Tensor, norm: torch.nn.GroupNorm, bias: Tensor | None, places: int) -> Tensor:
    """Factors and addends of a group norm for each channel, [B, 2, C] in fp32.

    `found` are the moments of `places` places a channel, to which `bias` [C] is still to be added.
    """
    batch, chunks, _, channels = found.shape
    scale = found.new_empty(batch, 2, channels)
    width = channels // norm.num_groups
    _scales[(batch, norm.num_groups)](
        found, norm.weight, norm.bias, bias, scale, norm.eps, places, chunks, channels, width,
        _chunk(batch, places, channels),
        C=triton.next_power_of_2(width), K=triton.next_power_of_2(chunks),
    )  # fmt: skip
    return scale


def normalise(x: Tensor, scale: Tensor, *, silu: bool = True, before: int = 0) -> Tensor:
    """x [B, C, *size], channels last, as `scales` says, then SiLU; `before` zero frames first."""
    size = list(x.shape)
    if before:
        size[2] += before
    out = _empty_like(x, size)
    front = before * x.shape[-2] * x.shape[-1]
    _normalise[_grid(out)](
        x, scale, out, x[0, 0].numel(), front, x.shape[1], silu, **_tile(x.shape[1])
    )
    return out


def _empty_like(x: Tensor, size: Sequence[int]) -> Tensor:
    last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return torch.empty(tuple(size), dtype=x.dtype, device=x.device, memory_format=last)


def _tile(channels: int) -> dict[str, int]:
    columns = min(triton.next_power_of_2(channels), 128)
    return {"C": columns, "P": max(1, _TILE // columns)}


def _grid(out: Tensor) -> tuple[int, int, int]:
    batch, channels = out.shape[:2]
    tile = _tile(channels)
    places = triton.cdiv(out[0, 0].numel(), tile["P"])
    return places, batch, triton.cdiv(channels, tile["C"])


def _chunk(batch: int, places: int, channels: int) -> int:
    """Places that a program sums up, so that there are enough programs."""
    tile = _tile(channels)
    programs = batch * triton.cdiv(channels, tile["C"])
    wanted = triton.next_power_of_2(max(1, places * programs // _ENOUGH))
    return int(min(_MOST_PLACES, max(tile["P"], wanted)))


def _sum_up(x: Tensor, y: Tensor | None, bias: Tensor | None, out: Tensor) -> Tensor:
    batch, channels = x.shape[:2]
    places, tile = x[0, 0].numel(), _tile(channels)
    size = _chunk(batch, places, channels)
    chunks = triton.cdiv(places, size)
    found = x.new_empty(batch, chunks, 2, channels, dtype=torch.float32)
    _moments[(chunks, batch, triton.cdiv(channels, tile["C"]))](
        x, y, bias, out, found, places, channels, size, **tile
    )
    return found


@triton.jit
def _total(x, y, bias, at, channel, inside, channels):
    """x + y + bias in fp32, of which the last two may be None."""
    total = tl.load(x + at, inside, 0.0).to(tl.float32)
    if y is not None:
        total += tl.load(y + at, inside, 0.0).to(tl.float32)
    if bias is not None:
        total += tl.load(bias + channel, channel < channels, 0.0).to(tl.float32)
    return total


@triton.jit(do_not_specialize=["places"])
def _moments(
    x, y, bias, out, moments, places, channels, size: tl.constexpr, C: tl.constexpr, P: tl.constexpr
):
    """Mean and sum of squared deviations of each channel in a chunk of places, and x + y + bias."""
    chunk, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    channel = tl.program_id(2) * C + tl.arange(0, C)[None, :]
    first = chunk * size
    count = tl.minimum(size, places - first)
    total = tl.zeros([P, C], tl.float32)
    squares = tl.zeros([P, C], tl.float32)
    # deviations are taken from a value of the chunk, so that squares of large means cancel nothing
    start = (sample * places + first) * channels + channel
    kind = out.dtype.element_ty
    origin = _total(x, y, bias, start, channel, channel < channels, channels)
    origin = origin.to(kind).to(tl.float32)
    for step in tl.range(0, size, P, num_stages=3):
        place = first + step + tl.arange(0, P)[:, None]
        inside = (place < places) & (channel < channels)
        at = (sample * places + place) * channels + channel
        value = _total(x, y, bias, at, channel, inside, channels).to(kind)
        if y is not None:
            tl.store(out + at, value, inside)
        away = tl.where(inside, value.to(tl.float32) - origin, 0.0)
        total += away
        squares += away * away
    mean = tl.sum(total, 0) / count
    spread = tl.sum(squares, 0) - mean * mean * count
    column = tl.program_id(2) * C + tl.arange(0, C)
    found = moments + (sample * tl.num_programs(0) + chunk) * 2 * channels + column
    tl.store(found, mean + tl.sum(origin, 0), column < channels)
    tl.store(found + channels, spread, column < channels)


@triton.jit(do_not_specialize=["places", "places_out", "front", "width", "width_out"])
def _sum_into(
    x, y, bias, out, places, places_out, channels, front, width, width_out, times: tl.constexpr,
    C: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """x + y + bias where the next convolution reads it, and zeros where there is none."""
    sample = tl.program_id(1).to(tl.int64)
    place_out = tl.program_id(0) * P + tl.arange(0, P)[:, None]
    channel = tl.program_id(2) * C + tl.arange(0, C)[None, :]
    row, column = (place_out - front) // width_out, (place_out - front) % width_out
    place = row // times * width + column // times
    here = (place_out < places_out) & (channel < channels)
    inside = here & (place_out >= front) & (column < width * times) & (place < places)
    at = (sample * places + place) * channels + channel
    value = _total(x, y, bias, at, channel, inside, channels)
    at_out = (sample * places_out + place_out) * channels + channel
    tl.store(out + at_out, tl.where(inside, value, 0.0), here)


@triton.jit(do_not_specialize=["places", "chunks"])
def _scales(
    moments, weight, bias, shift, scale, eps, places, chunks, channels, width,
    size: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Factor and addend of each channel."""
    sample, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    chunk, column = tl.arange(0, K)[:, None], tl.arange(0, C)[None, :]
    inside = (chunk < chunks) & (column < width)
    place = moments + (sample * chunks + chunk) * 2 * channels + group * width + column
    count = tl.where(inside, tl.minimum(size, places - chunk * size), 0)
    means = tl.load(place, inside, 0.0)
    channel = group * width + tl.arange(0, C)
    mine = tl.arange(0, C) < width
    shifts = tl.zeros([C], tl.float32)
    if shift is not None:
        shifts = tl.load(shift + channel, mine, 0.0).to(tl.float32)
        means += shifts[None, :]
    mean = tl.sum(means * count) / (places * width)
    away = tl.where(inside, means - mean, 0.0)
    spread = tl.sum(tl.load(place + channels, inside, 0.0) + away * away * count)
    inverse = tl.rsqrt(spread / (places * width) + eps)
    factor = tl.load(weight + channel, mine, 0.0).to(tl.float32) * inverse
    term = tl.load(bias + channel, mine, 0.0).to(tl.float32) + (shifts - mean) * factor
    out = scale + sample * 2 * channels + channel
    tl.store(out, factor, mine)
    tl.store(out + channels, term, mine)


@triton.jit(do_not_specialize=["places", "front"])
def _normalise(
    x, scale, out, places, front, channels, silu: tl.constexpr, C: tl.constexpr, P: tl.constexpr
):
    sample = tl.program_id(1).to(tl.int64)
    place_out = tl.program_id(0) * P + tl.arange(0, P)[:, None]
    channel = tl.program_id(2) * C + tl.arange(0, C)[None, :]
    place = place_out - front
    here = (place < places) & (channel < channels)
    inside = here & (place >= 0)
    factors = scale + sample * 2 * channels + channel
    factor = tl.load(factors, channel < channels, 0.0)
    term = tl.load(factors + channels, channel < channels, 0.0)
    at = (sample * places + place) * channels + channel
    value = tl.load(x + at, inside, 0.0).to(tl.float32) * factor + term
    if silu:
        value *= tl.sigmoid(value)
    at_out = (sample * (places + front) + place_out) * channels + channel
    tl.store(out + at_out, tl.where(inside, value, 0.0), here)
