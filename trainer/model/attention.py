"""Self attention, rotary positions over time, and cross attention to captions of unequal length."""

import os
import shutil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

# Triton comes with torch for GPUs, and builds its kernels with the compiler that it finds.
COMPILER = os.environ.get("CC") or shutil.which("clang") or shutil.which("gcc")
KERNELS = torch.cuda.is_available() and COMPILER is not None
if KERNELS:
    from trainer.model.attention_kernels import MOST_FRAMES, attend_over_time, normalise_heads

_EPS = 1e-6
_HALF = (torch.bfloat16, torch.float16)
_PARALLEL = 16  # sequences that occupy a GPU: their backward pass is parallel over heads and keys


class Captions(NamedTuple):
    """Where the captions' tokens lie once all are packed one after another, padding left out."""

    tokens: Tensor  # [M] index of each token among the B x L of the batch
    longest: int
    starts: Tensor | None = None  # [B + 1] int32: caption b is rows starts[b] to starts[b + 1]
    query_starts: Tensor | None = None  # [B + 1] int32: the same for the queries of a group
    groups: int = 1  # of a clip's queries, each with all caption tokens
    rows: Tensor | None = None  # [B x longest] packed row; None: equal lengths, or `starts` is set
    valid: Tensor | None = None  # [B, 1, 1, longest] bool, False where `rows` is padding


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
    longest = int(lengths.max())
    tokens = _move(keep.flatten().nonzero().squeeze(1), like.device)
    starts = F.pad(lengths.cumsum(0), (1, 0))
    if like.is_cuda and like.dtype in _HALF:
        most = max(1, _PARALLEL // len(keep))
        groups = max(number for number in range(1, most + 1) if queries % number == 0)
        query_starts = torch.arange(len(starts)) * (queries // groups)
        return Captions(
            tokens,
            longest,
            _move(starts.int(), like.device),
            _move(query_starts.int(), like.device),
            groups,
        )
    if bool((lengths == longest).all()):
        return Captions(tokens, longest)
    place = torch.arange(longest)
    valid = place < lengths[:, None]
    rows = torch.where(valid, starts[:-1, None] + place, 0).flatten()
    return Captions(
        tokens,
        longest,
        rows=_move(rows, like.device),
        valid=_move(valid[:, None, None], like.device),
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

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """[B, T, S, D] over S or, turned by their place as `rotate` says, over T."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        attended = self._in_frames(qkv) if rotation is None else self._over_time(qkv, *rotation)
        return self.proj(attended.flatten(-2))

    def _in_frames(self, qkv: Tensor) -> Tensor:
        """[B, T, S, 3, heads, width] to [B, T, S, heads, width]."""
        if KERNELS and qkv.is_cuda and self.qk_norm:
            q, k, v = normalise_heads(qkv, self.q_norm.weight, self.k_norm.weight, _EPS)
        else:
            q, k, v = qkv.unbind(-3)
            q, k = self.q_norm(q), self.k_norm(k)
        parts = (part.flatten(0, 1).transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(*parts).transpose(1, 2).view(q.shape)

    def _over_time(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, T, S, 3, heads, width] to [B, T, S, heads, width]."""
        if KERNELS and qkv.is_cuda and self.qk_norm and len(cos) <= MOST_FRAMES:
            return attend_over_time(qkv, self.q_norm.weight, self.k_norm.weight, cos, sin, _EPS)
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
        batch, queries, _ = x.shape
        q = self.q_linear(x).unflatten(-1, (self.heads, -1))
        kv = self.kv_linear(y)
        if captions.starts is not None:
            groups = captions.groups  # as if a clip had more heads, for each of them fewer queries
            k, v = kv.unflatten(-1, (2, 1, self.heads, -1)).repeat(1, 1, groups, 1, 1).unbind(1)
            out = varlen_attn(
                q.view(-1, groups * self.heads, q.shape[-1]),
                k.flatten(1, 2),
                v.flatten(1, 2),
                captions.query_starts,
                captions.starts,
                queries // groups,
                captions.longest,
            )
            return self.proj(out.view(x.shape))
        if captions.rows is not None:
            kv = kv.index_select(0, captions.rows)
        k, v = kv.view(batch, -1, 2, self.heads, q.shape[-1]).unbind(2)
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=captions.valid
        )
        return self.proj(out.transpose(1, 2).flatten(2))


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
