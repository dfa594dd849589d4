"""Self attention, rotary positions over time, and cross attention to captions of unequal length."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from trainer.model.kernels import KERNELS, has_kernels

if KERNELS:
    from trainer.model.attention_kernels import MOST_FRAMES, AttendOverTime, NormaliseHeads

_EPS = 1e-6
_HALF = (torch.bfloat16, torch.float16)
_PARALLEL = 8  # sequences that occupy a GPU: their backward pass is parallel over heads and keys
_FEW = 4  # clips that are faster one after another than by the kernel for unequal lengths


class Captions(NamedTuple):
    """Where the captions' tokens lie once all are packed one after another, padding left out."""

    tokens: Tensor  # [M] index of each token among the B x L of the batch
    lengths: list[int]  # of each caption
    alike: bool  # of one length
    groups: int = 1  # of a clip's queries, each with all caption tokens
    starts: Tensor | None = None  # [B + 1] int32: caption b is rows starts[b] to starts[b + 1]
    query_starts: Tensor | None = None  # [B + 1] int32: the same for the queries of a group


def pack_captions(
    mask: Tensor | None, shape: tuple[int, int], queries: int, *, like: Tensor
) -> Captions:
    """The layout of B captions of up to L tokens for `queries` video tokens each.

    mask [B or a divisor, L] is nonzero where a token counts; None keeps all. It is read on the
    host, so a mask that lies there costs no device sync.
    """
    keep = torch.ones(shape, dtype=torch.bool) if mask is None else mask.cpu() != 0
    keep = keep.repeat(shape[0] // len(keep), 1)
    lengths = keep.sum(1)
    if not lengths.all():
        raise ValueError("a caption without a single token; even an empty one has its end token")
    tokens = _move(keep.flatten().nonzero().squeeze(1), like.device)
    alike = bool((lengths == lengths[0]).all())
    captions = Captions(tokens, lengths.tolist(), alike)
    if not like.is_cuda:
        return captions
    together = alike or (len(keep) > _FEW and like.dtype in _HALF)
    most = max(1, _PARALLEL // len(keep)) if together else _PARALLEL
    groups = max(number for number in range(1, most + 1) if queries % number == 0)
    if alike or not together:
        return captions._replace(groups=groups)
    starts = F.pad(lengths.cumsum(0), (1, 0))
    query_starts = torch.arange(len(starts)) * (queries // groups)
    return captions._replace(
        groups=groups,
        starts=_move(starts.int(), like.device),
        query_starts=_move(query_starts.int(), like.device),
    )


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
        """What `self.qkv` gave, [B, T, S, 3 D], to [B, T, S, D].

        Over S or, turned by their place as `rotate` says, over T.
        """
        qkv = qkv.unflatten(-1, (3, self.heads, -1))
        attended = self._in_frames(qkv) if rotation is None else self._over_time(qkv, *rotation)
        return self.proj(attended.flatten(-2))

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
        self.heads = heads
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor, captions: Captions) -> Tensor:
        """Video tokens [B, N, D] and packed caption tokens [M, D] to [B, N, D]."""
        q, kv = self.q_linear(x), self.kv_linear(y)
        if captions.starts is not None:
            return self.proj(self._together(q, kv, captions))
        if captions.alike:
            return self.proj(self._attend(q, kv.unflatten(0, (len(q), -1)), captions.groups))
        # layers of each clip's own, since what is put together here would be kept once more
        pairs = zip(q.split(1), kv[None].split(captions.lengths, 1), strict=True)
        return torch.cat([self.proj(self._attend(*pair, captions.groups)) for pair in pairs])

    def _attend(self, q: Tensor, kv: Tensor, groups: int) -> Tensor:
        """[B, N, D] and [B, L, 2 D] to [B, N, D]."""
        kv = kv.unflatten(-1, (2, self.heads, -1))[:, None].expand(-1, groups, -1, -1, -1, -1)
        k, v = kv.flatten(0, 1).transpose(1, 3).unbind(2)
        grouped = q.view(len(k), -1, self.heads, k.shape[-1]).transpose(1, 2)
        return F.scaled_dot_product_attention(grouped, k, v).transpose(1, 2).reshape(q.shape)

    def _together(self, q: Tensor, kv: Tensor, captions: Captions) -> Tensor:
        """All clips at once, as if each had more heads, and for each of them fewer queries."""
        groups = captions.groups
        k, v = kv.unflatten(-1, (2, 1, self.heads, -1)).repeat(1, 1, groups, 1, 1).unbind(1)
        out = varlen_attn(
            q.view(-1, groups * self.heads, k.shape[-1]),
            k.flatten(1, 2),
            v.flatten(1, 2),
            captions.query_starts,
            captions.starts,
            q.shape[1] // groups,
            max(captions.lengths),
        )
        return out.view(q.shape)


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
