"""Self attention on a GPU, in fewer passes over memory than the library's kernels take.

Over time, sequences are many and short: a program of `AttendOverTime` holds one sequence of one
head, wherever its tokens lie, and takes it from raw queries, keys and values to the attended ones.
No score and no normalised query leaves the chip, and the backward pass keeps only what went in.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.model.kernels.blocks import total, wide
from trainer.model.kernels.constants import FULL_GRID

MOST_FRAMES = 128  # whose scores a program can hold
_PROGRAMS = FULL_GRID  # of a backward pass; each sums up its share of weights' gradients


class AttendOverTime(torch.autograd.Function):
    """Attention of normalised and turned queries and keys, over T."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        q_weight: Tensor,
        k_weight: Tensor,
        cos: Tensor,
        sin: Tensor,
        eps: float,
    ) -> Tensor:
        """[B, T, S, 3, heads, width] contiguous to [B, T, S, heads, width].

        Queries and keys are normalised, weighted [width] and turned by cos and sin [T, width].
        """
        ctx.save_for_backward(qkv, q_weight, k_weight, cos, sin)
        ctx.eps = eps
        batch, frames, spatial_tokens, _, heads, width = qkv.shape
        if frames == 1:
            return qkv[..., 2, :, :].contiguous()
        out = qkv.new_empty(batch, frames, spatial_tokens, heads, width)
        _attend[(batch * spatial_tokens * heads,)](
            qkv, q_weight, k_weight, cos, sin, out, eps, width**-0.5, spatial_tokens, frames, heads,
            width, **_tile(frames, width, 8),
        )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of `qkv` and of both weights, in their shapes, from [B, T, S, heads, width]."""
        qkv, q_weight, k_weight, cos, sin = ctx.saved_tensors
        batch, frames, spatial_tokens, _, heads, width = qkv.shape
        if frames == 1:  # a single token is all that is seen, whatever its query and key
            grad_qkv = torch.zeros_like(qkv)
            grad_qkv[..., 2, :, :] = gradient
            return grad_qkv, *q_weight.new_zeros(2, width).unbind(), None, None, None
        grad_qkv = torch.empty_like(qkv)
        sequences = batch * spatial_tokens * heads
        sums = qkv.new_empty(1, min(_PROGRAMS, sequences), 2, width, dtype=torch.float32)
        _attend_backward[(sums.shape[1],)](
            gradient.contiguous(), qkv, q_weight, k_weight, cos, sin, grad_qkv, sums, ctx.eps,
            width**-0.5, sequences, spatial_tokens, frames, heads, width, **_tile(frames, width, 4),
        )  # fmt: skip
        return grad_qkv, *total(sums, q_weight.dtype)[0].unbind(), None, None, None


class NormaliseHeads(torch.autograd.Function):
    """Queries and keys with a mean square of 1, times their weights, and values where they are."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float
    ) -> tuple[Tensor, ...]:
        """[..., heads, width] each, of [..., 3, heads, width] contiguous and weights [width]."""
        ctx.save_for_backward(qkv, q_weight, k_weight)
        ctx.eps = eps
        *_, heads, width = qkv.shape
        out = tuple(qkv.new_empty(*qkv.shape[:-3], heads, width) for _ in range(2))
        rows = out[0].numel() // width
        tile = _tile(16, width, 4)
        _normalise[(triton.cdiv(rows, tile["T"]),)](
            qkv, q_weight, k_weight, *out, eps, rows, heads, width, **tile
        )
        return *out, qkv[..., 2, :, :]

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradients of `qkv` and both weights, in their shapes, from three [..., heads, width]."""
        qkv, q_weight, k_weight = ctx.saved_tensors
        *_, heads, width = qkv.shape
        grad_qkv = torch.empty_like(qkv)
        rows = grad_q.numel() // width
        tile = _tile(16, width, 4)
        programs = min(_PROGRAMS, triton.cdiv(rows, tile["T"]))
        sums = qkv.new_empty(1, programs, 2, width, dtype=torch.float32)
        _normalise_backward[(programs,)](
            grad_q.contiguous(), grad_k.contiguous(), grad_v.contiguous(), qkv, q_weight, k_weight,
            grad_qkv, sums, ctx.eps, rows, heads, width, **tile,
        )  # fmt: skip
        return grad_qkv, *total(sums, q_weight.dtype)[0].unbind(), None


def _tile(rows: int, width: int, rows_a_warp: int) -> dict[str, int]:
    """The rows and columns that a program holds, in powers of two, and its warps.

    Loads are not staged ahead: for 128 rows, shared memory would not hold them.
    """
    rows = max(16, triton.next_power_of_2(rows))
    warps = min(16, rows // rows_a_warp)
    return {"T": rows, "W": triton.next_power_of_2(width), "num_warps": warps, "num_stages": 1}


@triton.jit
def _other_of_pair(x, T: tl.constexpr, W: tl.constexpr):
    even, odd = tl.split(tl.reshape(x, [T, W // 2, 2]))
    return tl.reshape(tl.join(odd, even), [T, W])


@triton.jit
def _turn(x, cos, sin, T: tl.constexpr, W: tl.constexpr):
    return x * cos + _other_of_pair(x, T, W) * sin


@triton.jit
def _turn_back(gradient, cos, sin, T: tl.constexpr, W: tl.constexpr):
    return gradient * cos + _other_of_pair(gradient * sin, T, W)


@triton.jit
def _inverse_norm(x, eps, width):
    return tl.rsqrt(tl.sum(x * x, 1) / width + eps)[:, None]


@triton.jit
def _norm_backward(gradient, normal, inverse, weight, width):
    gradient = gradient * weight
    return inverse * (gradient - normal * (tl.sum(gradient * normal, 1) / width)[:, None])


@triton.jit
def _weights(q, k, scale, frames, T: tl.constexpr):
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    scores = tl.where(tl.arange(0, T)[None, :] < frames, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit(do_not_specialize=["spatial_tokens", "frames"])
def _attend(
    qkv, q_weight, k_weight, cos, sin, out, eps, scale, spatial_tokens, frames,
    heads: tl.constexpr, width: tl.constexpr, T: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    row, column = tl.arange(0, T)[:, None], tl.arange(0, W)[None, :]
    inside = (row < frames) & (column < width)
    sequence = tl.program_id(0).to(tl.int64)
    site, head = sequence // heads, sequence % heads
    token = (site // spatial_tokens * frames + row) * spatial_tokens + site % spatial_tokens
    place = token * (3 * heads * width) + head * width + column
    q_weight, k_weight = (
        wide(q_weight + column, column < width),
        wide(k_weight + column, column < width),
    )
    cos, sin = wide(cos + row * width + column, inside), wide(sin + row * width + column, inside)
    q, k = wide(qkv + place, inside), wide(qkv + place + heads * width, inside)
    v = tl.load(qkv + place + 2 * heads * width, inside, 0.0)
    q = _turn(q * _inverse_norm(q, eps, width) * q_weight, cos, sin, T, W).to(v.dtype)
    k = _turn(k * _inverse_norm(k, eps, width) * k_weight, cos, sin, T, W).to(v.dtype)
    attended = tl.dot(_weights(q, k, scale, frames, T).to(v.dtype), v, input_precision="ieee")
    tl.store(out + token * (heads * width) + head * width + column, attended, inside)


@triton.jit(do_not_specialize=["sequences", "spatial_tokens", "frames"])
def _attend_backward(
    gradient, qkv, q_weight, k_weight, cos, sin, grad_qkv, sums, eps, scale, sequences,
    spatial_tokens, frames, heads: tl.constexpr, width: tl.constexpr, T: tl.constexpr,
    W: tl.constexpr,
):  # fmt: skip
    row, column = tl.arange(0, T)[:, None], tl.arange(0, W)[None, :]
    inside = (row < frames) & (column < width)
    wq, wk = wide(q_weight + column, column < width), wide(k_weight + column, column < width)
    cos, sin = wide(cos + row * width + column, inside), wide(sin + row * width + column, inside)
    grad_wq, grad_wk = tl.zeros([T, W], tl.float32), tl.zeros([T, W], tl.float32)
    for number in range(tl.program_id(0), sequences, tl.num_programs(0)):
        sequence = tl.cast(number, tl.int64)
        site, head = sequence // heads, sequence % heads
        token = (site // spatial_tokens * frames + row) * spatial_tokens + site % spatial_tokens
        place = token * (3 * heads * width) + head * width + column
        q, k = wide(qkv + place, inside), wide(qkv + place + heads * width, inside)
        v = tl.load(qkv + place + 2 * heads * width, inside, 0.0)
        g = tl.load(gradient + token * (heads * width) + head * width + column, inside, 0.0)
        q_inverse, k_inverse = _inverse_norm(q, eps, width), _inverse_norm(k, eps, width)
        q, k = q * q_inverse, k * k_inverse
        q_turned, k_turned = (
            _turn(q * wq, cos, sin, T, W).to(v.dtype),
            _turn(k * wk, cos, sin, T, W).to(v.dtype),
        )
        weights = _weights(q_turned, k_turned, scale, frames, T)
        grad_scores = tl.dot(g, tl.trans(v), input_precision="ieee")
        grad_scores = weights * (grad_scores - tl.sum(weights * grad_scores, 1)[:, None]) * scale
        grad_scores = grad_scores.to(v.dtype)
        grad_v = tl.dot(tl.trans(weights.to(v.dtype)), g, input_precision="ieee")
        grad_q = tl.dot(grad_scores, k_turned, input_precision="ieee")
        grad_k = tl.dot(tl.trans(grad_scores), q_turned, input_precision="ieee")
        grad_q, grad_k = _turn_back(grad_q, cos, sin, T, W), _turn_back(grad_k, cos, sin, T, W)
        grad_wq += grad_q * q
        grad_wk += grad_k * k
        grad_q = _norm_backward(grad_q, q, q_inverse, wq, width)
        grad_k = _norm_backward(grad_k, k, k_inverse, wk, width)
        tl.store(grad_qkv + place, grad_q, inside)
        tl.store(grad_qkv + place + heads * width, grad_k, inside)
        tl.store(grad_qkv + place + 2 * heads * width, grad_v, inside)
    _store_weights(sums, grad_wq, grad_wk, width, W)


@triton.jit
def _store_weights(sums, grad_wq, grad_wk, width, W: tl.constexpr):
    column = tl.arange(0, W)
    place = sums + tl.program_id(0) * 2 * width + column
    tl.store(place, tl.sum(grad_wq, 0), column < width)
    tl.store(place + width, tl.sum(grad_wk, 0), column < width)


@triton.jit(do_not_specialize=["rows"])
def _normalise(
    qkv, q_weight, k_weight, q_out, k_out, eps, rows,
    heads: tl.constexpr, width: tl.constexpr, T: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, W)[None, :]
    row = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)[:, None]
    inside = (row < rows) & (column < width)
    wq, wk = wide(q_weight + column, column < width), wide(k_weight + column, column < width)
    place = qkv + (row // heads * 3 * heads + row % heads) * width + column
    q, k = wide(place, inside), wide(place + heads * width, inside)
    here = row * width + column
    tl.store(q_out + here, q * _inverse_norm(q, eps, width) * wq, inside)
    tl.store(k_out + here, k * _inverse_norm(k, eps, width) * wk, inside)


@triton.jit(do_not_specialize=["rows"])
def _normalise_backward(
    grad_q, grad_k, grad_v, qkv, q_weight, k_weight, grad_qkv, sums, eps, rows,
    heads: tl.constexpr, width: tl.constexpr, T: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, W)[None, :]
    wq, wk = wide(q_weight + column, column < width), wide(k_weight + column, column < width)
    grad_wq, grad_wk = tl.zeros([T, W], tl.float32), tl.zeros([T, W], tl.float32)
    for number in range(tl.program_id(0), tl.cdiv(rows, T), tl.num_programs(0)):
        row = tl.cast(number, tl.int64) * T + tl.arange(0, T)[:, None]
        inside = (row < rows) & (column < width)
        place = (row // heads * 3 * heads + row % heads) * width + column
        here = row * width + column
        q, k = wide(qkv + place, inside), wide(qkv + place + heads * width, inside)
        q_inverse, k_inverse = _inverse_norm(q, eps, width), _inverse_norm(k, eps, width)
        q, k = q * q_inverse, k * k_inverse
        gq, gk = wide(grad_q + here, inside), wide(grad_k + here, inside)
        grad_wq += gq * q
        grad_wk += gk * k
        tl.store(grad_qkv + place, _norm_backward(gq, q, q_inverse, wq, width), inside)
        tl.store(
            grad_qkv + place + heads * width, _norm_backward(gk, k, k_inverse, wk, width), inside
        )
        tl.store(grad_qkv + place + 2 * heads * width, tl.load(grad_v + here, inside, 0.0), inside)
    _store_weights(sums, grad_wq, grad_wk, width, W)
