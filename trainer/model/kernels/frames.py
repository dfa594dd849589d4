"""Attention within frames on Hopper GPUs, block by block, as FlashAttention-2 (Dao, 2023).

The library's kernels take the 72 channels of a head for 96 at least; these take them for 64 + 16,
which the tensor memory accelerator brings: the 8 channels too many are the next head's, and meet
zeros or are not stored. Queries and keys are normalised, so their scores are bounded and need no
maximum taken off; where weights have grown so much that this does not hold, it is taken off.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.tools.tensor_descriptor import TensorDescriptor

from trainer.model.kernels import flash_attention
from trainer.model.kernels.split_heads import LOG2_E, add_weighted, load, products, split, store

FEWEST_TOKENS = 400  # of a frame; below, the library's kernels are as fast
_ROWS = 128  # to which logarithms of sums are padded
_HIGHEST = tl.constexpr(96.0)  # a score to the base 2, whose exponentials fp32 can add up


def takes(q: Tensor) -> bool:
    """True if these kernels attend to q [B, T, S, heads, width] faster than the library's."""
    fits = 64 < q.shape[-1] <= 80 and q.shape[-1] % 8 == 0 and q.dtype == torch.bfloat16
    hopper = torch.cuda.get_device_capability(q.device) == (9, 0)
    return fits and hopper and q.shape[2] >= FEWEST_TOKENS


class AttendInFrames(torch.autograd.Function):
    """Attention of each frame's tokens to each other."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, q_weight: Tensor, k_weight: Tensor
    ) -> Tensor:
        """[B, T, S, heads, width] each to the same, contiguous.

        q and k are contiguous, and each head of theirs has a mean square of at most 1 before it is
        multiplied by its weights [width], which are read for the bound of scores alone.
        """
        if flash := _flash():
            parts = (part.flatten(0, 1) for part in (q, k, v))
            out, lse = flash_attention.forward(flash, *parts)
            out = out.view(q.shape)
        else:
            out, lse = _forward(q, k, v, q_weight, k_weight)
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k and v, contiguous, from [B, T, S, heads, width]."""
        q, k, v, out, lse = ctx.saved_tensors
        grad_out = grad_out.contiguous()
        if flash := _flash():
            parts = (part.flatten(0, 1) for part in (grad_out, q, k, v, out))
            grad_out, *rest = parts
            found = flash_attention.backward(flash, grad_out, (*rest, lse))
            return *(gradient.view(q.shape) for gradient in found), None, None
        return *_backward(grad_out, q, k, v, out, lse), None, None


def _flash() -> Any:
    """flash-attn-4, but where bits must be equal: it adds up gradients of queries in any order."""
    return None if torch.are_deterministic_algorithms_enabled() else flash_attention.find()


def _forward(
    q: Tensor, k: Tensor, v: Tensor, q_weight: Tensor, k_weight: Tensor
) -> tuple[Tensor, Tensor]:
    tokens, heads, width = q.shape[2:]
    frames, scale = q.shape[0] * q.shape[1], width**-0.5 * LOG2_E
    blocks = triton.cdiv(tokens, _ROWS)
    out, lse = torch.empty_like(q), q.new_empty(frames * heads, blocks * _ROWS, dtype=torch.float32)
    bound, channels = q.new_empty(1, dtype=torch.float32), triton.next_power_of_2(width)
    _bound_scores[(1,)](q_weight, k_weight, bound, width * scale, width, channels, num_warps=1)
    _attend[(blocks, frames * heads)](
        q, *_boxes(k, 64), *_boxes(v, 64), bound, out, lse, scale, tokens, heads, width, Q=_ROWS,
        K=64, **split(width), num_warps=8, maxnreg=128,
    )  # fmt: skip
    return out, lse


def _backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, heads, width = q.shape[2:]
    grad_q, grad_k, grad_v = (torch.empty_like(q) for _ in range(3))
    delta, scale = torch.empty_like(lse), width**-0.5
    _grad_queries[(triton.cdiv(tokens, _ROWS), len(lse))](
        grad_out, out, lse, q, *_boxes(k, 64), *_boxes(v, 64), grad_q, delta, scale,
        scale * LOG2_E, tokens, heads, width, Q=_ROWS, K=64, **split(width), num_warps=8,
        maxnreg=128,
    )  # fmt: skip
    _grad_keys[(triton.cdiv(tokens, 64), len(lse))](
        *_boxes(grad_out, 64), lse, delta, *_boxes(q, 64), k, v, v.stride(2), grad_k, grad_v,
        scale, scale * LOG2_E, tokens, heads, width, Q=64, K=64, R=_ROWS, **split(width),
        num_warps=4,
    )  # fmt: skip
    return grad_q, grad_k, grad_v


def _boxes(x: Tensor, rows: int) -> list[TensorDescriptor]:
    """Both parts of a head's channels, of all tokens [B x T x S] and channels [heads x width]."""
    shape, steps = [x[..., 0, 0].numel(), x.shape[-2] * x.shape[-1]], [x.stride(2), 1]
    return [
        TensorDescriptor(x, shape, steps, [rows, channels])
        for channels in split(x.shape[-1]).values()
    ]


@triton.jit
def _bound_scores(q_weight, k_weight, bound, factor, width, W: tl.constexpr):
    """The highest score that is possible, to the base 2."""
    channel = tl.arange(0, W)
    q = tl.load(q_weight + channel, channel < width, 0.0).to(tl.float32)
    k = tl.load(k_weight + channel, channel < width, 0.0).to(tl.float32)
    tl.store(bound, tl.max(tl.abs(q), 0) * tl.max(tl.abs(k), 0) * factor)


@triton.jit
def _line(number, tokens, R: tl.constexpr):
    """Begin of a frame's and head's logarithms: a multiple of R, as the compiler sees."""
    return number.to(tl.int64) * (tl.cdiv(tokens, R) * R)


@triton.jit
def _read(box, last, row, channel, A: tl.constexpr):
    return box.load([row, channel]), last.load([row, channel + A])


@triton.jit
def _add_attended(
    own, k, v, key, tokens, scale, highest, total, sums, bounded: tl.constexpr, whole: tl.constexpr
):
    scores = products(own, k)
    if not whole:
        scores = tl.where((key < tokens)[None, :], scores, float("-inf"))
    if bounded:
        weights = tl.exp2(scores * scale)
    else:
        higher = tl.maximum(highest, tl.max(scores, 1) * scale)
        weights = tl.exp2(scores * scale - higher[:, None])
        kept = tl.exp2(highest - higher)
        total = total * kept
        sums = sums[0] * kept[:, None], sums[1] * kept[:, None]
        highest = higher
    total += tl.sum(weights, 1)
    return highest, total, add_weighted(sums, weights.to(k[0].dtype), v)


@triton.jit
def _attended(
    own, k, k_last, v, v_last, first, head, tokens, scale, bounded: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    highest = tl.zeros([Q], tl.float32) if bounded else tl.full([Q], float("-inf"), tl.float32)
    total = tl.zeros([Q], tl.float32)
    sums = tl.zeros([Q, A], tl.float32), tl.zeros([Q, B], tl.float32)
    whole = tokens // K * K
    for start in tl.range(0, whole, K, num_stages=3):
        keys = _read(k, k_last, first + start, head, A)
        values = _read(v, v_last, first + start, head, A)
        key = start + tl.arange(0, K)
        highest, total, sums = _add_attended(
            own, keys, values, key, tokens, scale, highest, total, sums, bounded, True
        )
    if whole < tokens:
        keys = _read(k, k_last, first + whole, head, A)
        values = _read(v, v_last, first + whole, head, A)
        key = whole + tl.arange(0, K)
        highest, total, sums = _add_attended(
            own, keys, values, key, tokens, scale, highest, total, sums, bounded, False
        )
    return highest, total, sums


@triton.jit(do_not_specialize=["tokens"])
def _attend(
    q, k, k_last, v, v_last, bound, out, lse, scale, tokens,
    heads: tl.constexpr, width: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, A: tl.constexpr,
    B: tl.constexpr,
):  # fmt: skip
    step: tl.constexpr = heads * width
    number = tl.program_id(1)
    first, head = number // heads * tokens, number % heads * width
    row = tl.program_id(0) * Q + tl.arange(0, Q)
    place = first.to(tl.int64) * step + head
    own = load(q + place, row, tokens, step, width, A, B)
    if tl.load(bound) < _HIGHEST:
        highest, total, sums = _attended(
            own, k, k_last, v, v_last, first, head, tokens, scale, True, Q, K, A, B
        )
    else:
        highest, total, sums = _attended(
            own, k, k_last, v, v_last, first, head, tokens, scale, False, Q, K, A, B
        )
    sums = sums[0] / total[:, None], sums[1] / total[:, None]
    store(out + place, sums, row, tokens, step, width, A, B)
    logarithm = tl.where(row < tokens, highest + tl.log2(total), float("inf"))
    tl.store(lse + _line(number, tokens, Q) + row, logarithm)


@triton.jit
def _add_to_queries(
    found, own, g, keys, values, key, tokens, lse, mean, scale, whole: tl.constexpr
):
    weights = tl.exp2(products(own, keys) * scale - lse)
    if not whole:
        weights = tl.where((key < tokens)[None, :], weights, 0.0)
    grad_scores = weights * (products(g, values) - mean)
    return add_weighted(found, grad_scores.to(keys[0].dtype), keys)


@triton.jit(do_not_specialize=["tokens"])
def _grad_queries(
    grad_out, out, lse, q, k, k_last, v, v_last, grad_q, delta, scale, log_scale, tokens,
    heads: tl.constexpr, width: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, A: tl.constexpr,
    B: tl.constexpr,
):  # fmt: skip
    step: tl.constexpr = heads * width
    number = tl.program_id(1)
    first, head = number // heads * tokens, number % heads * width
    row = tl.program_id(0) * Q + tl.arange(0, Q)
    place, line = first.to(tl.int64) * step + head, _line(number, tokens, Q)
    own = load(q + place, row, tokens, step, width, A, B)
    g = load(grad_out + place, row, tokens, step, width, A, B)
    read = load(out + place, row, tokens, step, width, A, B)
    mean = tl.sum(g[0].to(tl.float32) * read[0], 1) + tl.sum(g[1].to(tl.float32) * read[1], 1)
    tl.store(delta + line + row, mean)  # zeros beyond the frame's tokens
    mean, sum_of = mean[:, None], tl.load(lse + line + row)[:, None]
    found = tl.zeros([Q, A], tl.float32), tl.zeros([Q, B], tl.float32)
    whole = tokens // K * K
    for start in tl.range(0, whole, K, num_stages=3):
        keys = _read(k, k_last, first + start, head, A)
        values = _read(v, v_last, first + start, head, A)
        key = start + tl.arange(0, K)
        found = _add_to_queries(
            found, own, g, keys, values, key, tokens, sum_of, mean, log_scale, True
        )
    if whole < tokens:
        keys = _read(k, k_last, first + whole, head, A)
        values = _read(v, v_last, first + whole, head, A)
        key = whole + tl.arange(0, K)
        found = _add_to_queries(
            found, own, g, keys, values, key, tokens, sum_of, mean, log_scale, False
        )
    found = found[0] * scale, found[1] * scale
    store(grad_q + place, found, row, tokens, step, width, A, B)


@triton.jit(do_not_specialize=["tokens"])
def _grad_keys(
    grad_out, grad_last, lse, delta, q, q_last, k, v, v_step, grad_k, grad_v, scale, log_scale,
    tokens, heads: tl.constexpr, width: tl.constexpr, Q: tl.constexpr, K: tl.constexpr,
    R: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Queries beyond the frame have infinite sums, so that their weights are 0."""
    step: tl.constexpr = heads * width
    number = tl.program_id(1)
    first, head = number // heads * tokens, number % heads * width
    key = tl.program_id(0) * K + tl.arange(0, K)
    place, line = first.to(tl.int64) * step + head, _line(number, tokens, R)
    own = load(k + place, key, tokens, step, width, A, B)
    values = load(v + first.to(tl.int64) * v_step + head, key, tokens, v_step, width, A, B)
    found = tl.zeros([K, A], tl.float32), tl.zeros([K, B], tl.float32)
    found_v = tl.zeros([K, A], tl.float32), tl.zeros([K, B], tl.float32)
    for start in tl.range(0, tokens, Q, num_stages=3):
        row = line + start + tl.arange(0, Q)
        queries = _read(q, q_last, first + start, head, A)
        g = _read(grad_out, grad_last, first + start, head, A)
        weights = tl.exp2(products(own, queries) * log_scale - tl.load(lse + row)[None, :])
        grad_weights = products(values, g)
        found_v = add_weighted(found_v, weights.to(g[0].dtype), g)
        grad_scores = weights * (grad_weights - tl.load(delta + row)[None, :])
        found = add_weighted(found, grad_scores.to(g[0].dtype), queries)
    found = found[0] * scale, found[1] * scale
    store(grad_k + place, found, key, tokens, step, width, A, B)
    store(grad_v + place, found_v, key, tokens, step, width, A, B)
