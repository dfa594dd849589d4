"""What a block does to its tokens beside products of matrices, on a GPU in one pass over memory.

Numbers of rows are not specialised: each bucket has its own, and would compile its own kernel.
Gradients of modulations and biases are sums over many tokens: each program sums up its share in
fp32, and `total` adds up what the programs found.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_EPS = 1e-6
_PROGRAMS = 132 * 4  # of a backward pass


class ModulatedLinear(torch.autograd.Function):
    """x and a linear layer of its modulated norm, which is made again for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shift: Tensor, scale: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x [B, T, S, D] contiguous; terms [B, T or 1, 1, D] of one table, each of as many rows."""
        ctx.save_for_backward(x, shift, scale, weight)
        return x, F.linear(_modulated(x, shift, scale), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_x: Tensor, of_out: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs; both of x become one without an addition between."""
        x, shift, scale, weight = ctx.saved_tensors
        of_out = of_out.flatten(0, -2)
        of_weight = of_bias = None
        if ctx.needs_input_grad[3]:
            of_weight = of_out.t() @ _modulated(x, shift, scale).flatten(0, -2)
        if ctx.needs_input_grad[4]:
            of_bias = _column_sums(of_out.contiguous())
        of_modulated = of_out @ weight
        terms, step = _as_rows(scale)
        rows, width = x.numel() // x.shape[-1] // len(terms), x.shape[-1]
        programs = _programs(rows, len(terms))
        found = torch.empty_like(x)
        sums = x.new_empty(len(terms), programs, 2, width, dtype=torch.float32)
        _modulate_backward[(len(terms), programs)](
            of_x.contiguous(), of_modulated, x, terms, found, sums, _EPS, rows, step, width,
            W=triton.next_power_of_2(width),
        )  # fmt: skip
        of_shift, of_scale = total(sums, scale.dtype).view(*scale.shape[:-1], 2, -1).unbind(-2)
        return found, of_shift, of_scale, of_weight, of_bias


class AddGated(torch.autograd.Function):
    """x + gate * value."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, value: Tensor) -> Tensor:
        """x, value [B, T, S, D] contiguous; gate [B, T or 1, 1, D]."""
        ctx.save_for_backward(gate, value)
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        terms, step = _as_rows(gate)
        out = torch.empty_like(x)
        _add_gated[(rows,)](
            x, terms, value, out, rows // len(terms), step, width, W=triton.next_power_of_2(width)
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, gate and value."""
        gate, value = ctx.saved_tensors
        terms, step = _as_rows(gate)
        rows, width = value.numel() // value.shape[-1] // len(terms), value.shape[-1]
        programs = _programs(rows, len(terms))
        of_value = torch.empty_like(value)
        sums = value.new_empty(len(terms), programs, width, dtype=torch.float32)
        _add_gated_backward[(len(terms), programs)](
            of_out.contiguous(), terms, value, of_value, sums, rows, step, width,
            W=triton.next_power_of_2(width),
        )  # fmt: skip
        return of_out, total(sums, gate.dtype).view(gate.shape), of_value


class GeluLinear(torch.autograd.Function):
    """A linear layer of x's GELU, which is made again for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x [..., D] contiguous."""
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x, approximate="tanh"), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs."""
        x, weight = ctx.saved_tensors
        of_out = of_out.flatten(0, -2)
        of_gelu, gelu, of_x = of_out @ weight, torch.empty_like(x), torch.empty_like(x)
        _gelu_and_gradient[(triton.cdiv(x.numel(), 2048),)](
            x, of_gelu, gelu, of_x, x.numel(), W=2048
        )
        of_weight = of_bias = None
        if ctx.needs_input_grad[1]:
            of_weight = of_out.t() @ gelu.flatten(0, -2)
        if ctx.needs_input_grad[2]:
            of_bias = _column_sums(of_out.contiguous())
        return of_x, of_weight, of_bias


def total(sums: Tensor, dtype: torch.dtype) -> Tensor:
    """fp32 [N, programs, *size] contiguous, summed up to [N, *size]."""
    count, programs, *size = sums.shape
    width = sums[0, 0].numel()
    out = sums.new_empty(count, *size, dtype=dtype)
    _total[(count, triton.cdiv(width, 32))](sums, out, programs, width, P=128, W=32)
    return out


def _column_sums(x: Tensor) -> Tensor:
    """[N, D] contiguous summed up to [D]."""
    rows, width = x.shape
    blocks = triton.cdiv(width, 128)
    programs = min(triton.cdiv(rows, 64), triton.cdiv(_PROGRAMS, blocks))
    sums = x.new_empty(1, programs, width, dtype=torch.float32)
    _sum_columns[(blocks, programs)](x, sums, rows, width, R=64, W=128)
    return total(sums, x.dtype)[0]


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    rows, width = x.numel() // x.shape[-1], x.shape[-1]
    terms, step = _as_rows(scale)
    out = torch.empty_like(x)
    _modulate[(rows,)](
        x, _as_rows(shift)[0], terms, out, _EPS, rows // len(terms), step, width,
        W=triton.next_power_of_2(width),
    )  # fmt: skip
    return out


def _as_rows(terms: Tensor) -> tuple[Tensor, int]:
    """[B, T or 1, 1, D] as [N, D], and how far one row is from the next."""
    rows = terms.flatten(0, -2)
    return rows, rows.stride(0)


def _programs(rows: int, terms: int) -> int:
    """How many share the rows of a term."""
    return min(rows, max(1, _PROGRAMS // terms))


@triton.jit
def wide(pointer, inside):
    """Values in fp32, 0 outside."""
    return tl.load(pointer, inside, 0.0).to(tl.float32)


@triton.jit
def _normal(x, inside, eps, width):
    """A row with mean 0 and variance 1, and the inverse of its deviation."""
    away = tl.where(inside, x - tl.sum(x, 0) / width, 0.0)
    inverse = tl.rsqrt(tl.sum(away * away, 0) / width + eps)
    return away * inverse, inverse


@triton.jit(do_not_specialize=["rows_a_term"])
def _modulate(x, shift, scale, out, eps, rows_a_term, step, width: tl.constexpr, W: tl.constexpr):
    row, column = tl.program_id(0), tl.arange(0, W)
    inside = column < width
    here = row.to(tl.int64) * width + column
    term = row // rows_a_term * step + column
    normal, _ = _normal(wide(x + here, inside), inside, eps, width)
    modulated = normal * (1 + wide(scale + term, inside)) + wide(shift + term, inside)
    tl.store(out + here, modulated, inside)


@triton.jit(do_not_specialize=["rows"])
def _modulate_backward(
    of_x, of_out, x, scale, found, sums, eps, rows, step, width: tl.constexpr, W: tl.constexpr
):
    term, program, programs = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    column = tl.arange(0, W)
    inside = column < width
    factor = 1 + wide(scale + term * step + column, inside)
    of_shift, of_scale = tl.zeros([W], tl.float32), tl.zeros([W], tl.float32)
    for row in range(program, rows, programs):
        here = (term.to(tl.int64) * rows + row) * width + column
        normal, inverse = _normal(wide(x + here, inside), inside, eps, width)
        g = wide(of_out + here, inside)
        of_shift += g
        of_scale += g * normal
        g *= factor
        g -= tl.sum(g, 0) / width + normal * (tl.sum(g * normal, 0) / width)
        tl.store(found + here, inverse * g + wide(of_x + here, inside), inside)
    place = sums + (term * programs + program) * 2 * width + column
    tl.store(place, of_shift, inside)
    tl.store(place + width, of_scale, inside)


@triton.jit(do_not_specialize=["rows_a_term"])
def _add_gated(x, gate, value, out, rows_a_term, step, width: tl.constexpr, W: tl.constexpr):
    row, column = tl.program_id(0), tl.arange(0, W)
    inside = column < width
    here = row.to(tl.int64) * width + column
    factor = wide(gate + row // rows_a_term * step + column, inside)
    tl.store(out + here, wide(x + here, inside) + factor * wide(value + here, inside), inside)


@triton.jit(do_not_specialize=["rows"])
def _add_gated_backward(
    of_out, gate, value, of_value, sums, rows, step, width: tl.constexpr, W: tl.constexpr
):
    term, program, programs = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    column = tl.arange(0, W)
    inside = column < width
    factor = wide(gate + term * step + column, inside)
    of_gate = tl.zeros([W], tl.float32)
    for row in range(program, rows, programs):
        here = (term.to(tl.int64) * rows + row) * width + column
        g = wide(of_out + here, inside)
        of_gate += g * wide(value + here, inside)
        tl.store(of_value + here, g * factor, inside)
    tl.store(sums + (term * programs + program) * width + column, of_gate, inside)


@triton.jit
def _gelu_and_gradient(x, of_gelu, gelu, of_x, count, W: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * W + tl.arange(0, W)
    inside = place < count
    value, g = wide(x + place, inside), wide(of_gelu + place, inside)
    # (1 + tanh(u)) / 2 is sigmoid(2 u); u = sqrt(2 / pi) (x + 0.044715 x^3)
    slope: tl.constexpr = 1.5957691216057308
    share = tl.sigmoid(slope * value * (1 + 0.044715 * value * value))
    tl.store(gelu + place, value * share, inside)
    steepness = slope * (1 + 3 * 0.044715 * value * value)
    tl.store(of_x + place, g * share * (1 + value * (1 - share) * steepness), inside)


@triton.jit(do_not_specialize=["rows"])
def _sum_columns(x, sums, rows, width: tl.constexpr, R: tl.constexpr, W: tl.constexpr):
    column = tl.program_id(0) * W + tl.arange(0, W)
    program, programs = tl.program_id(1), tl.num_programs(1)
    found = tl.zeros([R, W], tl.float32)
    for first in range(program * R, rows, programs * R):
        row = first + tl.arange(0, R)[:, None]
        inside = (row < rows) & (column < width)[None, :]
        found += wide(x + row.to(tl.int64) * width + column[None, :], inside)
    tl.store(sums + program * width + column, tl.sum(found, 0), column < width)


@triton.jit(do_not_specialize=["programs"])
def _total(sums, out, programs, width, P: tl.constexpr, W: tl.constexpr):
    count = tl.program_id(0)
    column = tl.program_id(1) * W + tl.arange(0, W)
    found = tl.zeros([P, W], tl.float32)
    for first in range(0, programs, P):
        program = first + tl.arange(0, P)[:, None]
        inside = (program < programs) & (column < width)[None, :]
        found += tl.load(sums + (count * programs + program) * width + column[None, :], inside, 0.0)
    tl.store(out + count * width + column, tl.sum(found, 0), column < width)
