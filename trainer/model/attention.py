"""Self attention, rotary positions over time, and cross attention to captions of unequal length."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

_HALF = (torch.bfloat16, torch.float16)
_TOGETHER = {"cuda": 128}  # tokens that attention kernels take at once; elsewhere one by one


class Captions(NamedTuple):
    """Where the captions' tokens lie once all are packed one after another, padding left out."""

    tokens: Tensor  # [M] index of each token among the B x L of the batch
    longest: int
    starts: Tensor | None = None  # [B + 1] int32: caption b is rows starts[b] to starts[b + 1]
    query_starts: Tensor | None = None  # [B + 1] int32: the same for the video tokens
    rows: Tensor | None = None  # [B x longest] packed row; None: equal lengths, or `starts` is set
    valid: Tensor | None = None  # [B, 1, 1, longest] bool, False where `rows` is padding


class OverTime(NamedTuple):
    """What attention over the frames needs besides the tokens, a sequence for each place."""

    cos: Tensor  # [T, 1, head width], as `rotate` wants it
    sin: Tensor
    apart: Tensor | None  # [g T, g T] -inf between two of g sequences that are computed together


def over_time(rotation: tuple[Tensor, Tensor], sequences: int) -> OverTime:
    """The layout of so many sequences, as long as `rotation` [T, 1, head width].

    A GPU's kernel takes 128 tokens at a time, and at most 65,535 rows: so as many sequences as fit
    go into a row, whose number divides that of the sequences. A CPU computes them one by one.
    """
    cos, sin = rotation
    most = _TOGETHER.get(cos.device.type, 1) // len(cos)
    group = max((number for number in range(1, most + 1) if sequences % number == 0), default=1)
    if group == 1:
        return OverTime(cos, sin, None)
    of_token = torch.arange(group, device=cos.device).repeat_interleave(len(cos))
    apart = cos.new_zeros(len(of_token), len(of_token))
    apart = apart.masked_fill(of_token[:, None] != of_token, -torch.inf)
    return OverTime(cos, sin, apart)


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
        query_starts = torch.arange(len(starts)) * queries
        return Captions(
            tokens,
            longest,
            _move(starts.int(), like.device),
            _move(query_starts.int(), like.device),
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
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, time: OverTime | None = None) -> Tensor:
        """[B, N, D] to [B, N, D]; over time, queries and keys are turned by their position."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k = self.q_norm(q), self.k_norm(k)
        if time is None:
            return self.proj(_attend(q, k, v).flatten(2))
        q, k = (rotate(part, time.cos, time.sin) for part in (q, k))
        return self.proj(_attend_over_time(q, k, v, time.apart).flatten(2))


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """[B, N, heads, width] each, and a bias of the scores [N, N], to [B, N, heads, width]."""
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)


# Compiled for one size of `apart`, the backward pass fails for others (torch 2.13).
@torch.compiler.disable
def _attend_over_time(q: Tensor, k: Tensor, v: Tensor, apart: Tensor | None) -> Tensor:
    """As `_attend`, several sequences in a row as `OverTime` says."""
    if apart is None:
        return _attend(q, k, v)
    shape = q.shape
    q, k, v = (part.flatten(0, 1).unflatten(0, (-1, len(apart))) for part in (q, k, v))
    return _attend(q, k, v, apart).reshape(shape)


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
            k, v = kv.unflatten(-1, (2, self.heads, -1)).unbind(1)
            out = varlen_attn(
                q.flatten(0, 1),
                k,
                v,
                captions.query_starts,
                captions.starts,
                queries,
                captions.longest,
            )
            return self.proj(out.unflatten(0, (batch, queries)).flatten(2))
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
        """What `rotate` multiplies with, [T, 1, head width] each in the type of `freqs`.

        In bf16 the angles are off by up to 0.44 rad at frame 120; published weights know it so.
        """
        places = torch.arange(frames, device=self.freqs.device, dtype=self.freqs.dtype)
        angles = (places[:, None] * self.freqs)[:, None]
        cos, sin = angles.cos(), angles.sin()
        return cos.repeat_interleave(2, -1), torch.stack((-sin, sin), -1).flatten(-2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the adjacent channel pairs of [..., N, heads, width] as `RotaryEmbedding` says."""
    other_of_pair = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * cos, other_of_pair, sin)
