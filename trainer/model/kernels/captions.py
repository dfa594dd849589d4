"""Attention of video tokens over their captions, block by block, as FlashAttention-2 (Dao, 2023).

The library's kernels take the 72 channels of a head for 128 and no lengths of captions; these take
them for 64 and 16, and read of a caption only the tokens that it has.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.model.kernels.constants import FULL_GRID
from trainer.model.kernels.split_heads import LOG2_E, add_weighted, load, products, split, store


class AttendCaptions(torch.autograd.Function):
    """Attention of a clip's queries over the keys and values of its caption."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, lengths: Tensor | None) -> Tensor:
        """q [B, Q, heads, width], kv [B, M, 2, heads, width], both contiguous, to a tensor like q.

        Of the M tokens only the first `lengths` count, int32 [B]; None: all do.
        """
        clips, queries, heads, width = q.shape
        out, lse = torch.empty_like(q), q.new_empty(clips, heads, queries, dtype=torch.float32)
        _attend[(triton.cdiv(queries, 64), clips * heads)](
            q, kv, lengths, out, lse, width**-0.5 * LOG2_E, queries, kv.shape[1], heads, width,
            Q=64, K=64, **split(width), num_warps=4, maxnreg=128,
        )  # fmt: skip
        ctx.save_for_backward(q, kv, lengths, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of `q` and `kv`, in their shapes, from [B, Q, heads, width].

        Programs for a caption's few keys share the queries, and each of them sums up its share.
        """
        q, kv, lengths, out, lse = ctx.saved_tensors
        (clips, queries, heads, width), tokens = q.shape, kv.shape[1]
        grad_out, grad_q, delta = grad_out.contiguous(), torch.empty_like(q), torch.empty_like(lse)
        scale, tile = width**-0.5, split(width) | {"num_warps": 4}
        _grad_queries[(triton.cdiv(queries, 64), clips * heads)](
            grad_out, out, lse, q, kv, lengths, grad_q, delta, scale, scale * LOG2_E, queries,
            tokens, heads, width, Q=64, K=32, **tile,
        )  # fmt: skip
        blocks = triton.cdiv(tokens, 64)
        shares = min(triton.cdiv(queries, 256), max(1, FULL_GRID // (blocks * clips * heads)))
        grad_kv = kv.new_empty(shares, *kv.shape)
        _grad_keys[(blocks, clips * heads, shares)](
            grad_out, lse, delta, q, kv, lengths, grad_kv, scale, scale * LOG2_E, queries, tokens,
            triton.cdiv(queries, shares), heads, width, Q=32, K=64, **tile,
        )  # fmt: skip
        return grad_q, grad_kv.sum(0), None


@triton.jit(do_not_specialize=["queries", "tokens"])
def _attend(
    q, kv, lengths, out, lse, scale, queries, tokens, heads: tl.constexpr, width: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    step: tl.constexpr = heads * width
    number = tl.program_id(1).to(tl.int64)
    clip, head = number // heads, number % heads * width
    count = tokens if lengths is None else tl.load(lengths + clip)
    k = kv + clip * tokens * 2 * step + head
    row = tl.program_id(0) * Q + tl.arange(0, Q)
    place = clip * queries * step + head
    own = load(q + place, row, queries, step, width, A, B)
    highest, total = tl.full([Q], float("-inf"), tl.float32), tl.zeros([Q], tl.float32)
    sums = tl.zeros([Q, A], tl.float32), tl.zeros([Q, B], tl.float32)
    for start in tl.range(0, count, K, num_stages=2):
        key = start + tl.arange(0, K)
        scores = products(own, load(k, key, count, 2 * step, width, A, B))
        if start + K > count:
            scores = tl.where((key < count)[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1) * scale)
        weights = tl.exp2(scores * scale - higher[:, None])
        kept = tl.exp2(highest - higher)
        total = total * kept + tl.sum(weights, 1)
        sums = sums[0] * kept[:, None], sums[1] * kept[:, None]
        v = load(k + step, key, count, 2 * step, width, A, B)
        sums = add_weighted(sums, weights.to(q.dtype.element_ty), v)
        highest = higher
    sums = sums[0] / total[:, None], sums[1] / total[:, None]
    store(out + place, sums, row, queries, step, width, A, B)
    tl.store(lse + number * queries + row, highest + tl.log2(total), row < queries)


@triton.jit(do_not_specialize=["queries", "tokens"])
def _grad_queries(
    grad_out, out, lse, q, kv, lengths, grad_q, delta, scale, log_scale, queries, tokens,
    heads: tl.constexpr, width: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, A: tl.constexpr,
    B: tl.constexpr,
):  # fmt: skip
    step: tl.constexpr = heads * width
    number = tl.program_id(1).to(tl.int64)
    clip, head = number // heads, number % heads * width
    count = tokens if lengths is None else tl.load(lengths + clip)
    k = kv + clip * tokens * 2 * step + head
    row = tl.program_id(0) * Q + tl.arange(0, Q)
    place = clip * queries * step + head
    own = load(q + place, row, queries, step, width, A, B)
    g = load(grad_out + place, row, queries, step, width, A, B)
    read = load(out + place, row, queries, step, width, A, B)
    mean = tl.sum(g[0].to(tl.float32) * read[0], 1) + tl.sum(g[1].to(tl.float32) * read[1], 1)
    tl.store(delta + number * queries + row, mean, row < queries)
    whole = tl.load(lse + number * queries + row, row < queries, 0.0)
    found = tl.zeros([Q, A], tl.float32), tl.zeros([Q, B], tl.float32)
    for start in tl.range(0, count, K, num_stages=2):
        key = start + tl.arange(0, K)
        others = load(k, key, count, 2 * step, width, A, B)
        weights = tl.exp2(products(own, others) * log_scale - whole[:, None])
        if start + K > count:
            weights = tl.where((key < count)[None, :], weights, 0.0)
        grad_weights = products(g, load(k + step, key, count, 2 * step, width, A, B))
        grad_scores = weights * (grad_weights - mean[:, None])
        found = add_weighted(found, grad_scores.to(q.dtype.element_ty), others)
    found = found[0] * scale, found[1] * scale
    store(grad_q + place, found, row, queries, step, width, A, B)


@triton.jit(do_not_specialize=["queries", "tokens", "share"])
def _grad_keys(
    grad_out, lse, delta, q, kv, lengths, grad_kv, scale, log_scale, queries, tokens, share,
    heads: tl.constexpr, width: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, A: tl.constexpr,
    B: tl.constexpr,
):  # fmt: skip
    step: tl.constexpr = heads * width
    number = tl.program_id(1).to(tl.int64)
    clip, head = number // heads, number % heads * width
    count = tokens if lengths is None else tl.load(lengths + clip)
    first = tl.program_id(0) * K
    key = first + tl.arange(0, K)
    k = kv + clip * tokens * 2 * step + head
    own = load(k, key, count, 2 * step, width, A, B)
    v = load(k + step, key, count, 2 * step, width, A, B)
    found = tl.zeros([K, A], tl.float32), tl.zeros([K, B], tl.float32)
    found_v = tl.zeros([K, A], tl.float32), tl.zeros([K, B], tl.float32)
    place, line = clip * queries * step + head, number * queries
    begin = tl.program_id(2) * share
    end = tl.where(first < count, tl.minimum(queries, begin + share), 0)
    for start in tl.range(begin, end, Q, num_stages=2):
        row = start + tl.arange(0, Q)
        others = load(q + place, row, end, step, width, A, B)
        whole = tl.load(lse + line + row, row < end, float("inf"))[None, :]
        weights = tl.exp2(products(own, others) * log_scale - whole)
        g = load(grad_out + place, row, end, step, width, A, B)
        found_v = add_weighted(found_v, weights.to(q.dtype.element_ty), g)
        mean = tl.load(delta + line + row, row < end, 0.0)[None, :]
        grad_scores = weights * (products(v, g) - mean)
        found = add_weighted(found, grad_scores.to(q.dtype.element_ty), others)
    there = (key < count)[:, None]  # what a caption lacks learns nothing
    found = tl.where(there, found[0] * scale, 0.0), tl.where(there, found[1] * scale, 0.0)
    found_v = tl.where(there, found_v[0], 0.0), tl.where(there, found_v[1], 0.0)
    clips = tl.num_programs(1) // heads
    place = (tl.program_id(2) * clips + clip) * tokens * 2 * step + head
    store(grad_kv + place, found, key, tokens, 2 * step, width, A, B)
    store(grad_kv + place + step, found_v, key, tokens, 2 * step, width, A, B)
