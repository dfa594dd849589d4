"""Self attention, rotary positions over time, and cross attention to captions of unequal length."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from trainer.model.kernels import KERNELS, has_kernels

if KERNELS:
    from trainer.model.attention_kernels import (
        MOST_FRAMES,
        AttendOverTime,
        NormaliseHeads,
        SpreadCaptions,
    )

_EPS = 1e-6
_PARALLEL = 8  # sequences that occupy a GPU: their backward pass is parallel over heads and keys
_STEP = 64  # of captions' lengths there, for each of which the library plans anew
_MARKS = 8  # channels, since the library's kernels want a multiple of 8
_HIDDEN = -(2.0**15)  # of padding: below any score, and a number in fp16 too


class Captions(NamedTuple):
    """Which tokens of its caption a clip's video reads, all captions padded to one length."""

    tokens: Tensor  # [B, M] index among the B x L of the batch; padding is one of the clip's own
    marks: Tensor | None  # [B, M, 1, channels] for their keys; None: nothing is padding
    groups: int  # of a clip's queries, each with all caption tokens


def lay_out_captions(
    mask: Tensor | None, shape: tuple[int, int], queries: int, *, like: Tensor
) -> Captions:
    """B captions of up to L tokens for `queries` video tokens each.

    mask [B or a divisor, L] is nonzero where a token counts; None keeps all. It is read on the
    host, so a mask that lies there costs no device sync.
    """
    keep = torch.ones(shape, dtype=torch.bool) if mask is None else mask.cpu() != 0
    keep = keep.repeat(shape[0] // len(keep), 1)
    lengths = keep.sum(1, keepdim=True)
    if not lengths.all():
        raise ValueError("a caption without a single token; even an empty one has its end token")
    step = _STEP if like.is_cuda else 1
    length = -(-int(lengths.max()) // step) * step
    counting_first = keep.byte().argsort(stable=True, dim=1, descending=True)
    inside = torch.arange(length) < lengths
    tokens = F.pad(counting_first, (0, length - shape[1])).where(inside, counting_first[:, :1])
    tokens += torch.arange(shape[0])[:, None] * shape[1]
    marks = None
    if not inside.all():
        marks = torch.zeros(*inside.shape, 1, _MARKS, dtype=like.dtype)
        marks[~inside, :, 0] = _HIDDEN
        marks = _move(marks, like.device)
    groups = 1
    if like.is_cuda:
        most = max(1, _PARALLEL // len(keep))
        groups = max(number for number in range(1, most + 1) if queries % number == 0)
    return Captions(_move(tokens, like.device), marks, groups)


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":  # from pageable memory the copy would wait for the device
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class SelfAttention(nn.Module):
    """Multi-head attention with normalised queries and keys."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.qk_norm = heads, qk_norm
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(width // heads, eps=_EPS) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(width // heads, eps=_EPS) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, qkv: Tensor, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """What `self.qkv` gave, [B, T, S, 3 D], to what `self.proj` takes, [B, T, S, D].

        Over S or, turned by their place as `rotate` says, over T.
        """
        qkv = qkv.unflatten(-1, (3, self.heads, -1))
        attended = self._in_frames(qkv) if rotation is None else self._over_time(qkv, *rotation)
        return attended.flatten(-2)

    def _in_frames(self, qkv: Tensor) -> Tensor:
        """[B, T, S, 3, heads, width] to [B, T, S, heads, width]."""
        if self.qk_norm and has_kernels(qkv):
            q, k, v = NormaliseHeads.apply(qkv, self.q_norm.weight, self.k_norm.weight, _EPS)
        else:
            q, k, v = qkv.unbind(-3)
            q, k = self.q_norm(q), self.k_norm(k)
        parts = (part.flatten(0, 1).transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(*parts).transpose(1, 2).view(q.shape)

    def _over_time(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, T, S, 3, heads, width] to [B, T, S, heads, width]."""
        if self.qk_norm and has_kernels(qkv) and len(cos) <= MOST_FRAMES:
            return AttendOverTime.apply(qkv, self.q_norm.weight, self.k_norm.weight, cos, sin, _EPS)
        q, k, v = qkv.unbind(-3)
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        parts = (rearrange(part, "b t s h w -> (b s) h t w") for part in (q, k, v))
        out = F.scaled_dot_product_attention(*parts)
        return rearrange(out, "(b s) h t w -> b t s h w", s=q.shape[2])


class CrossAttention(nn.Module):
    """Every video token reads the caption of its own sample."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def queries_of(self, captions: Captions) -> tuple[Tensor, Tensor]:
        """Weight and bias of the layer that makes the queries `forward` takes for such captions.

        Where there is padding, keys carry marks in channels of their own and queries 1, which
        leaves it no weight. A mask would do the same, but the fast kernels take none.
        """
        weight, bias = self.q_linear.weight, self.q_linear.bias
        if captions.marks is None:
            return weight, bias
        weight = F.pad(weight.unflatten(0, (self.heads, -1)), (0, 0, 0, _MARKS))
        bias = F.pad(bias.unflatten(0, (self.heads, -1)), (0, _MARKS), value=1.0)
        return weight.flatten(0, 1), bias.flatten()

    def forward(self, q: Tensor, y: Tensor, captions: Captions) -> Tensor:
        """Queries [B, T, S, heads x channels], captions [B, M, D] to what `self.proj` takes."""
        kv = self.kv_linear(y).unflatten(-1, (2, self.heads, -1))
        k, v = (part.transpose(1, 2) for part in self._spread(kv, captions))
        grouped = q.view(len(k), -1, self.heads, k.shape[-1]).transpose(1, 2)
        out = F.scaled_dot_product_attention(grouped, k, v, scale=self.scale)
        return out.transpose(1, 2).reshape(*q.shape[:-1], -1)

    def _spread(self, kv: Tensor, captions: Captions) -> tuple[Tensor, ...]:
        """[B, M, 2, heads, width] to marked keys and values, [B x groups, M, heads, channels]."""
        if has_kernels(kv):
            return SpreadCaptions.apply(kv, captions.marks, captions.groups)
        k, v = kv.unbind(-3)
        if captions.marks is not None:
            k = torch.cat((k, captions.marks.expand(-1, -1, self.heads, -1)), -1)
        k, v = (part[:, None].expand(-1, captions.groups, -1, -1, -1) for part in (k, v))
        return k.flatten(0, 1), v.flatten(0, 1)


class RotaryEmbedding(nn.Module):
    """Angles that turn channel pairs by the frame's number."""

    def __init__(self, head_width: int) -> None:
        super().__init__()
        exponents = torch.arange(0, head_width, 2).float() / head_width
        self.freqs = nn.Parameter(10000.0**-exponents, requires_grad=False)

    def forward(self, frames: int) -> tuple[Tensor, Tensor]:
        """What `rotate` multiplies with, [T, head width] each in the type of `freqs`.

        In bf16 the angles are off by up to 0.44 rad at frame 120; published weights know it so.
        """
        places = torch.arange(frames, device=self.freqs.device, dtype=self.freqs.dtype)
        angles = places[:, None] * self.freqs
        cos, sin = angles.cos(), angles.sin()
        return cos.repeat_interleave(2, -1), torch.stack((-sin, sin), -1).flatten(-2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the adjacent channel pairs of [B, T, S, heads, width] as `RotaryEmbedding` says."""
    other_of_pair = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * cos[:, None, None], other_of_pair, sin[:, None, None])
