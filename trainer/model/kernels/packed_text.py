"""A T5 layer's work between its matrix products, over captions that stand one behind the other.

No result depends on what else stands in the rows: norms go row by row, and attention goes caption
by caption, in blocks that begin where the caption begins (Raffel et al. 2020 for the arithmetic).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOG2_E = 1.4426950408889634  # exponentials have the base 2
_BLOCK = 64  # queries, and keys at once


def add_and_normalise(x: Tensor, y: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """RMS norm of x + y, both [rows, C]; x becomes the sum."""
    out = torch.empty_like(x)
    _add_and_normalise[(len(x),)](
        x, y, weight, out, eps, x.shape[1], C=triton.next_power_of_2(x.shape[1]), num_warps=8
    )
    return out


def gated_gelu(gate: Tensor, x: Tensor) -> Tensor:
    """x times the GELU (by tanh) of `gate`, both contiguous."""
    out = torch.empty_like(x)
    _gated_gelu[(triton.cdiv(x.numel(), 2048),)](gate, x, out, x.numel(), N=2048)
    return out


def attend_within(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, starts: Tensor, lengths: Tensor
) -> Tensor:
    """Attention of each caption's tokens over its own, in [rows, heads, width], unscaled.

    Captions have `lengths` tokens from row `starts`, int32 [captions] each. `bias` [heads, 2 L - 1]
    in fp32 is added to the scores by how far a key stands behind its query, from 1 - L to L - 1;
    no caption is longer than L. Rows of no caption become 0.
    """
    _, heads, width = q.shape
    longest = (bias.shape[1] + 1) // 2
    out = torch.zeros_like(q)
    _attend[(triton.cdiv(longest, _BLOCK), len(starts), heads)](
        q, k, v, bias, starts, lengths, out, heads * width, longest, width, _LOG2_E,
        Q=_BLOCK, K=_BLOCK, W=triton.next_power_of_2(width),
    )  # fmt: skip
    return out


@triton.jit
def _add_and_normalise(x, y, weight, out, eps, channels, C: tl.constexpr):
    column = tl.arange(0, C)
    at = tl.program_id(0).to(tl.int64) * channels + column
    value = tl.load(x + at, column < channels, 0.0).to(tl.float32)
    if y is not None:
        total = value + tl.load(y + at, column < channels, 0.0).to(tl.float32)
        total = total.to(x.dtype.element_ty)
        tl.store(x + at, total, column < channels)
        value = total.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(value * value, 0) / channels + eps)
    factor = tl.load(weight + column, column < channels, 0.0).to(tl.float32)
    tl.store(out + at, value * inverse * factor, column < channels)


@triton.jit
def _gated_gelu(gate, x, out, count, N: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    value = tl.load(gate + at, at < count, 0.0).to(tl.float32)
    inner = 0.7978845608028654 * (value + 0.044715 * value * value * value)
    gelu = value * tl.sigmoid(2 * inner)  # (1 + tanh(inner)) / 2
    tl.store(out + at, gelu * tl.load(x + at, at < count, 0.0).to(tl.float32), at < count)


@triton.jit
def _attend(
    q, k, v, bias, starts, lengths, out, stride, longest, width, log2_e,
    Q: tl.constexpr, K: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * Q
    caption, head = tl.program_id(1), tl.program_id(2)
    start, length = tl.load(starts + caption), tl.load(lengths + caption)
    if first < length:
        query, column = first + tl.arange(0, Q), tl.arange(0, W)
        here = (start + query)[:, None] * stride + head * width + column[None, :]
        inside = (query < length)[:, None] & (column < width)[None, :]
        queries = tl.load(q + here, inside, 0.0)
        most = tl.full([Q], float("-inf"), tl.float32)
        total = tl.zeros([Q], tl.float32)
        attended = tl.zeros([Q, W], tl.float32)
        for begin in range(0, length, K):
            key = begin + tl.arange(0, K)
            at = (start + key)[:, None] * stride + head * width + column[None, :]
            there = (key < length)[:, None] & (column < width)[None, :]
            keys, values = tl.load(k + at, there, 0.0), tl.load(v + at, there, 0.0)
            distance = key[None, :] - query[:, None] + longest - 1
            known = (key < length)[None, :] & (query < length)[:, None]
            added = tl.load(bias + head * (2 * longest - 1) + distance, known, float("-inf"))
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") + added
            scores = tl.where((query < length)[:, None], scores * log2_e, 0.0)
            top = tl.maximum(most, tl.max(scores, 1))
            weights = tl.exp2(scores - top[:, None])
            shrunk = tl.exp2(most - top)
            total = total * shrunk + tl.sum(weights, 1)
            attended = attended * shrunk[:, None] + tl.dot(
                weights.to(values.dtype), values, input_precision="ieee"
            )
            most = top
        tl.store(out + here, attended / total[:, None], inside)
