"""Self attention, rotary positions over time, and cross attention to captions of unequal length."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from trainer.model.kernels.available import KERNELS, has_kernels
from trainer.model.kernels.constants import EPS

if KERNELS:
    from trainer.model.kernels import frames as in_frames
    from trainer.model.kernels.attention import MOST_FRAMES, AttendOverTime, NormaliseHeads
    from trainer.model.kernels.captions import AttendCaptions

_STEP = 64  # of captions' padded lengths on a GPU, for each of which libraries plan anew


class Captions(NamedTuple):
    """The caption tokens that each clip's video reads, all captions padded to one length."""

    tokens: Tensor  # [B, M] index among the B x L of the batch; padding is one of the clip's own
    lengths: Tensor | None  # [B] int32, of which the rest is padding; None: nothing is


def lay_out_captions(mask: Tensor | None, shape: tuple[int, int], device: torch.device) -> Captions:
    """B captions of up to L tokens.

    mask [B or a divisor, L] is nonzero where a token counts; None keeps all. It is read on the
    host, so a mask that lies there costs no device sync.
    """
    keep = torch.ones(shape, dtype=torch.bool) if mask is None else mask.cpu() != 0
    keep = keep.repeat(shape[0] // len(keep), 1)
    lengths = keep.sum(1, keepdim=True)
    if not lengths.all():
        raise ValueError("a caption without a single token; even an empty one has its end token")
    step = _STEP if device.type == "cuda" else 1
    length = -(-int(lengths.max()) // step) * step
    counting_first = keep.byte().argsort(stable=True, dim=1, descending=True)
    inside = torch.arange(length) < lengths
    tokens = F.pad(counting_first, (0, length - shape[1])).where(inside, counting_first[:, :1])
    tokens += torch.arange(shape[0])[:, None] * shape[1]
    padded = not inside.all()
    return Captions(_move(tokens, device), _move(lengths[:, 0].int(), device) if padded else None)


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
        self.q_norm = nn.RMSNorm(width // heads, eps=EPS) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(width // heads, eps=EPS) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, qkv: Tensor, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Attention of the values of `self.qkv`, [B, T, S, 3 D], for `self.proj`: [B, T, S, D].

        Over S or, turned by their place as `rotate` says, over T.
        """
        qkv = qkv.unflatten(-1, (3, self.heads, -1))
        attended = self._in_frames(qkv) if rotation is None else self._over_time(qkv, *rotation)
        return attended.flatten(-2)

    def _in_frames(self, qkv: Tensor) -> Tensor:
        """[B, T, S, 3, heads, width] to [B, T, S, heads, width]."""
        if self.qk_norm and has_kernels(qkv):
            weights = self.q_norm.weight, self.k_norm.weight
            q, k, v = NormaliseHeads.apply(qkv, *weights, EPS)
            if in_frames.takes(q):
                return in_frames.AttendInFrames.apply(q, k, v, *weights)
        else:
            q, k, v = qkv.unbind(-3)
            q, k = self.q_norm(q), self.k_norm(k)
        parts = (part.flatten(0, 1).transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(*parts).transpose(1, 2).view(q.shape)

    def _over_time(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, T, S, 3, heads, width] to [B, T, S, heads, width]."""
        if self.qk_norm and has_kernels(qkv) and len(cos) <= MOST_FRAMES:
            return AttendOverTime.apply(qkv, self.q_norm.weight, self.k_norm.weight, cos, sin, EPS)
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

    def forward(self, q: Tensor, y: Tensor, captions: Captions) -> Tensor:
        """Attention of the values of `self.q_linear`, [B, ..., D], to captions [B, M, D].

        The result, for `self.proj`, is [B, ..., D] too.
        """
        kv = self.kv_linear(y).unflatten(-1, (2, self.heads, -1))
        queries = q.view(len(q), -1, self.heads, kv.shape[-1])
        if has_kernels(q):
            return AttendCaptions.apply(queries, kv, captions.lengths).view(q.shape)
        counts = None
        if captions.lengths is not None:
            place = torch.arange(y.shape[1], device=y.device)
            counts = (place < captions.lengths[:, None])[:, None, None]
        queries, k, v = (part.transpose(1, 2) for part in (queries, *kv.unbind(2)))
        out = F.scaled_dot_product_attention(queries, k, v, attn_mask=counts)
        return out.transpose(1, 2).reshape(q.shape)


class RotaryEmbedding(nn.Module):
    """Angles that turn channel pairs by the frame's number."""

    def __init__(self, head_width: int) -> None:
        super().__init__()
        exponents = torch.arange(0, head_width, 2).float() / head_width
        self.freqs = nn.Parameter(10000.0**-exponents, requires_grad=False)

    def forward(self, frames: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotation, [T, head width] each, in the type of `freqs`.

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
