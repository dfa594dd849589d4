"""The VAE's passes on a GPU, with the networks' own weights and few passes over memory.

A convolution's bias is not added where it ends, but with the sum or the norm that follows
(`norms`), and what a sum writes is laid out as the next convolution reads it.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from trainer.model.kernels import norms, one_head


class _Values(NamedTuple):
    """x [B, C, *size], channels last, to which `bias` [C] is still to be added."""

    x: Tensor
    bias: Tensor | None = None
    moments: Tensor | None = None  # of x, where they are known


_Add = Callable[[Tensor, Tensor, Tensor | None], _Values]


def encode_frames(encoder: nn.Module, frames: Tensor) -> Tensor:
    """Result of diffusers' encoder for frames [N, 3, H, W]."""
    x = _convolve(encoder.conv_in, frames.contiguous(memory_format=torch.channels_last))
    for block in encoder.down_blocks:
        down = block.downsamplers
        x = _run(block.resnets, x, partial(_add_into, after=1) if down else _add)
        if down:
            x = _convolve(down[0].conv, x.x)
    return _end(encoder, _middle(encoder.mid_block, x))


def decode_frames(decoder: nn.Module, latents: Tensor) -> Tensor:
    """Result of diffusers' decoder for latents [N, C, h, w]."""
    x = _convolve(decoder.conv_in, latents.contiguous(memory_format=torch.channels_last))
    x = _middle(decoder.mid_block, x)
    for block in decoder.up_blocks:
        up = block.upsamplers
        x = _run(block.resnets, x, partial(_add_into, times=2) if up else _add)
        if up:
            x = _convolve(up[0].conv, x.x)
    return _end(decoder, x)


def encode_chunks(encoder: nn.Module, x: Tensor) -> Tensor:
    """Result of the temporal part's encoder for [B, C, T, H, W]."""
    x = encoder.conv_in(x).contiguous(memory_format=torch.channels_last_3d)
    values = _Values(x)
    for level, blocks in enumerate(encoder.block_res_blocks):
        down = encoder.conv_blocks[level] if level < len(encoder.conv_blocks) else nn.Identity()
        if isinstance(down, nn.Identity):
            values = _run(blocks, values, _add)
        else:
            values = _run(blocks, values, partial(_add_into, before=down.frames_before))
            values = _convolve(down.conv, values.x)
    values = _run(encoder.res_blocks, values, _add)
    return encoder.conv2(_normalised(values, encoder.norm1))


def decode_chunks(decoder: nn.Module, z: Tensor) -> Tensor:
    """Result of the temporal part's decoder for [B, C, t, H, W]."""
    x = decoder.conv1(z).contiguous(memory_format=torch.channels_last_3d)
    values = _run(decoder.res_blocks, _Values(x), _add)
    for level in reversed(range(len(decoder.block_res_blocks))):
        up = decoder.conv_blocks[level - 1] if level else nn.Identity()
        if isinstance(up, nn.Identity):
            values = _run(decoder.block_res_blocks[level], values, _add)
            continue
        into = partial(_add_into, before=up.frames_before)
        x = up.conv(_run(decoder.block_res_blocks[level], values, into).x)
        x = rearrange(x, "b (c ts) t h w -> b c (t ts) h w", ts=decoder.stretch[level - 1])
        values = _Values(x.contiguous(memory_format=torch.channels_last_3d))
    out = decoder.conv_out
    return out.conv(_normalised(values, decoder.norm1, before=out.frames_before))


def _run(blocks: Iterable[nn.Module], x: _Values, last: _Add) -> _Values:
    """x through residual blocks, the last of which ends in the sum `last`."""
    *before, end = blocks
    for block in before:
        x = _res_block(block, x, _add)
    return _res_block(end, x, last)


def _res_block(block: Any, x: _Values, add: _Add) -> _Values:
    """diffusers' residual block, or the temporal part's."""
    before = getattr(block.conv1, "frames_before", 0)  # of zeros, where it is causal
    hidden = _convolve(block.conv1, _normalised(x, block.norm1, before=before))
    hidden = _convolve(block.conv2, _normalised(hidden, block.norm2, before=before))
    layer = getattr(block, "conv_shortcut", None) or getattr(block, "conv3", None)
    shortcut = x if layer is None else _shortcut(layer, x)
    return add(shortcut.x, hidden.x, _sum_of(shortcut.bias, hidden.bias))


def _convolve(layer: Any, x: Tensor) -> _Values:
    """A convolution, causal or not, of what is padded in time already; its bias is left out."""
    conv = getattr(layer, "conv", layer)
    convolve = F.conv2d if x.ndim == 4 else F.conv3d
    out = convolve(x, conv.weight, None, conv.stride, conv.padding)
    last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return _Values(out.contiguous(memory_format=last), conv.bias)


def _shortcut(layer: Any, x: _Values) -> _Values:
    """A convolution of size 1; what x lacks goes through it as a vector."""
    out = _convolve(layer, x.x)
    if x.bias is None:
        return out
    weight = getattr(layer, "conv", layer).weight.flatten(1)
    return out._replace(bias=_sum_of(out.bias, weight.float() @ x.bias.float()))


def _sum_of(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a.float() + b.float()


def _add(x: Tensor, y: Tensor, bias: Tensor | None) -> _Values:
    out, moments = norms.add(x, y, bias)
    return _Values(out, None, moments)


def _add_into(x: Tensor, y: Tensor, bias: Tensor | None, **layout: int) -> _Values:
    return _Values(norms.add_into(x, y, bias, **layout))


def _normalised(x: _Values, norm: Any, *, silu: bool = True, before: int = 0) -> Tensor:
    moments = norms.moments(x.x) if x.moments is None else x.moments
    scale = norms.scales(moments, norm, x.bias, x.x[0, 0].numel())
    return norms.normalise(x.x, scale, silu=silu, before=before)


def _middle(block: Any, x: _Values) -> _Values:
    x = _res_block(block.resnets[0], x, _add)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        x = _res_block(resnet, _attend(attention, x), _add)
    return x


def _attend(attention: Any, x: _Values) -> _Values:
    normal = _normalised(x, attention.group_norm, silu=False)
    tokens = normal.permute(0, 2, 3, 1).flatten(1, 2)
    q, k, v = (layer(tokens) for layer in (attention.to_q, attention.to_k, attention.to_v))
    out = attention.to_out[0]
    attended = F.linear(one_head.attend(q, k, v), out.weight)
    size = x.x.shape[2:]
    return _add(x.x, attended.unflatten(1, size).permute(0, 3, 1, 2), out.bias)


def _end(network: Any, x: _Values) -> Tensor:
    return network.conv_out(_normalised(x, network.conv_norm_out))
