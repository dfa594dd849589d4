"""Kernels for the elementwise parts of a block: norm, modulation, gates, GELU; one pass each.

Numbers of rows are not specialised: each bucket has its own, and would compile its own kernel.
Gradients of modulations and biases are sums over many tokens: each program sums up its share in
fp32, and `total` adds up what the programs found.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.model.kernels.constants import EPS, PROCESSORS


def total(sums: Tensor, dtype: torch.dtype) -> Tensor:
    """fp32 [N, programs, *size] contiguous, summed up to [N, *size]."""
    return _totals(sums, None, dtype)[0]


def _totals(
    sums: Tensor, bias_sums: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """As `total`; and fp32 [N, programs, D], if there is one, summed up to [D]."""
    count, programs, *size = sums.shape
    out, grad_bias = sums.new_empty(count, *size, dtype=dtype), None
    width = bias_width = out[0].numel()
    if bias_sums is not None:
        bias_width = bias_sums.shape[-1]
        grad_bias = out.new_empty(bias_width)
    _total[(count + (bias_sums is not None), triton.cdiv(width, 8))](
        sums, out, bias_sums, grad_bias, count, programs, width, bias_width, P=512, W=8
    )
    return out, grad_bias


def column_sums(x: Tensor) -> Tensor:
    """[..., D] contiguous, summed up to [D]."""
    width = x.shape[-1]
    blocks, programs = _columns(x, rows=64, columns=128, programs=4 * PROCESSORS)
    sums = x.new_empty(1, programs, width, dtype=torch.float32)
    _sum_columns[(blocks, programs)](x, sums, x.numel() // width, width, R=64, W=128)
    return total(sums, x.dtype)[0]


def _columns(x: Tensor, *, rows: int, columns: int, programs: int) -> tuple[int, int]:
    """Blocks of columns of x [..., D], and how many of the programs share the rows of one."""
    blocks = triton.cdiv(x.shape[-1], columns)
    most = triton.cdiv(x.numel() // x.shape[-1], rows)
    return blocks, min(most, triton.cdiv(programs, blocks))


def modulated_norm(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    addend: Tensor | None = None,
    gate: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x, with the addend if there is one, biased and gated if there is a gate; and its norm."""
    rows, width = x.numel() // x.shape[-1], x.shape[-1]
    terms, step = _as_rows(scale)
    gates, gate_step = (None, 0) if gate is None else _as_rows(gate)
    out, added = torch.empty_like(x), x if addend is None else torch.empty_like(x)
    _modulate[(rows,)](
        x, addend, gates, bias, _as_rows(shift)[0], terms, added, out, EPS, rows // len(terms),
        step, gate_step, width, W=triton.next_power_of_2(width), ADD=addend is not None,
        GATE=gate is not None,
    )  # fmt: skip
    return added, out


class ModulatedGrads(NamedTuple):
    """Gradients of the inputs of `modulated_norm`, None for absent ones, and the norm again."""

    grad_x: Tensor
    grad_shift: Tensor
    grad_scale: Tensor
    modulated: Tensor
    grad_addend: Tensor | None  # where there is no gate, it is that of x
    grad_gate: Tensor | None
    grad_bias: Tensor | None  # within the addend or beside it


def modulated_backward(
    grad_x: Tensor,
    grad_modulated: Tensor,
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    addend: Tensor | None = None,
    gate: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    added: bool = False,
) -> ModulatedGrads:
    """Gradients of `modulated_norm`; `x` is its first output, `grad_x` that output's gradient.

    Without a gate the addend is not needed, but `added` says that there was one.
    """
    terms, step = _as_rows(scale)
    rows, width = x.numel() // x.shape[-1] // len(terms), x.shape[-1]
    programs = _programs(rows, len(terms), 3 if gate is None else 2)
    modulated, found = torch.empty_like(x), torch.empty_like(x)
    gates, gate_step = (None, 0) if gate is None else _as_rows(gate)
    grad_addend = None if gate is None else torch.empty_like(x)
    kinds = 2 if gate is None else 3
    sums = x.new_empty(len(terms), programs, kinds, width, dtype=torch.float32)
    added = added or gate is not None
    bias_sums = sums.new_empty(len(terms), programs, width) if added else None
    _modulate_backward[(len(terms), programs)](
        grad_x.contiguous(), grad_modulated, x, _as_rows(shift)[0], terms, addend, gates, bias,
        modulated, found, grad_addend, sums, bias_sums, EPS, rows, step, gate_step, width,
        W=triton.next_power_of_2(width), ADDED=added, GATED=gate is not None,
    )  # fmt: skip
    grad_terms, grad_bias = _totals(sums, bias_sums, x.dtype)
    grad_each = grad_terms.view(*scale.shape[:-1], kinds, -1).unbind(-2)
    grad_gate = None if gate is None else grad_each[2]
    return ModulatedGrads(
        found, grad_each[0], grad_each[1], modulated, grad_addend, grad_gate, grad_bias
    )


def gated_sum(x: Tensor, gate: Tensor, addend: Tensor) -> Tensor:
    """x + gate * addend; x, addend [B, T, S, D], gate [B, T or 1, 1, D]."""
    rows, width = x.numel() // x.shape[-1], x.shape[-1]
    terms, step = _as_rows(gate)
    out = torch.empty_like(x)
    _add_gated[(rows,)](
        x, terms, addend, out, rows // len(terms), step, width, W=triton.next_power_of_2(width)
    )
    return out


def gated_sum_backward(
    grad_out: Tensor, gate: Tensor, addend: Tensor, more: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Gradients of x, of addend, of gate, and of a bias within the addend.

    `more` is another gradient of what comes out.
    """
    terms, step = _as_rows(gate)
    rows, width = addend.numel() // addend.shape[-1] // len(terms), addend.shape[-1]
    programs = _programs(rows, len(terms), 3)
    grad_out = grad_out.contiguous()
    grad_x, grad_addend = (
        grad_out if more is None else torch.empty_like(grad_out),
        torch.empty_like(grad_out),
    )
    sums = addend.new_empty(len(terms), programs, width, dtype=torch.float32)
    bias_sums = torch.empty_like(sums)
    _add_gated_backward[(len(terms), programs)](
        grad_out, more, terms, addend, grad_x, grad_addend, sums, bias_sums, rows, step, width,
        W=triton.next_power_of_2(width), MORE=more is not None,
    )  # fmt: skip
    grad_gate, grad_bias = _totals(sums, bias_sums, gate.dtype)
    return grad_x, grad_addend, grad_gate.view(gate.shape), grad_bias


def gelu_backward(grad_gelu: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The GELU of x again, the gradient of x, and its sum over all but the last dimension."""
    width = x.shape[-1]
    blocks, programs = _columns(x, rows=8, columns=256, programs=16 * PROCESSORS)
    gelu, grad_x = torch.empty_like(x), torch.empty_like(x)
    sums = x.new_empty(1, programs, width, dtype=torch.float32)
    _gelu_and_gradient[(blocks, programs)](
        x, grad_gelu, gelu, grad_x, sums, x.numel() // width, width, R=8, W=256
    )
    return gelu, grad_x, total(sums, x.dtype)[0]


def _as_rows(terms: Tensor) -> tuple[Tensor, int]:
    """[B, T or 1, 1, D] as [N, D], and how far one row is from the next."""
    rows = terms.flatten(0, -2)
    return rows, rows.stride(0)


def _programs(rows: int, terms: int, at_once: int) -> int:
    """Programs that share the rows of a term; a processor has registers for so many `at_once`."""
    return min(rows, max(1, at_once * PROCESSORS // terms))


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
def _modulate(
    x, addend, gate, bias, shift, scale, added, out, eps, rows_a_term, step, gate_step,
    width: tl.constexpr, W: tl.constexpr, ADD: tl.constexpr, GATE: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(0), tl.arange(0, W)
    inside = column < width
    here = row.to(tl.int64) * width + column
    term = row // rows_a_term
    value = wide(x + here, inside)
    if ADD:
        more = wide(addend + here, inside)
        if GATE:
            more += wide(bias + column, inside)
            more *= wide(gate + term * gate_step + column, inside)
        value = (value + more).to(added.dtype.element_ty)
        tl.store(added + here, value, inside)
        value = value.to(tl.float32)
    normal, _ = _normal(value, inside, eps, width)
    term = term * step + column
    modulated = normal * (1 + wide(scale + term, inside)) + wide(shift + term, inside)
    tl.store(out + here, modulated, inside)


@triton.jit(do_not_specialize=["rows"])
def _modulate_backward(
    grad_x, grad_modulated, x, shift, scale, addend, gate, bias, modulated, found, grad_addend,
    sums, bias_sums, eps, rows, step, gate_step, width: tl.constexpr, W: tl.constexpr,
    ADDED: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    term, program, programs = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    column = tl.arange(0, W)
    inside = column < width
    factor = 1 + wide(scale + term * step + column, inside)
    moved = wide(shift + term * step + column, inside)
    if GATED:
        gate_here = wide(gate + term * gate_step + column, inside)
    grad_shift, grad_scale = tl.zeros([W], tl.float32), tl.zeros([W], tl.float32)
    grad_gate, grad_added = tl.zeros([W], tl.float32), tl.zeros([W], tl.float32)
    for row in tl.range(program, rows, programs, num_stages=3):  # loads run ahead
        here = (term.to(tl.int64) * rows + row) * width + column
        normal, inverse = _normal(wide(x + here, inside), inside, eps, width)
        tl.store(modulated + here, normal * factor + moved, inside)
        g = wide(grad_modulated + here, inside)
        grad_shift += g
        grad_scale += g * normal
        g *= factor
        g -= tl.sum(g, 0) / width + normal * (tl.sum(g * normal, 0) / width)
        g = inverse * g + wide(grad_x + here, inside)
        tl.store(found + here, g, inside)
        if ADDED:
            grad_added += g
        if GATED:
            grad_gate += g * wide(addend + here, inside)
            tl.store(grad_addend + here, g * gate_here, inside)
    place = term * programs + program
    kinds: tl.constexpr = 3 if GATED else 2
    tl.store(sums + place * kinds * width + column, grad_shift, inside)
    tl.store(sums + (place * kinds + 1) * width + column, grad_scale, inside)
    if GATED:  # what is the same in every row comes after their sum
        grad_gate += grad_added * wide(bias + column, inside)
        grad_added *= gate_here
        tl.store(sums + (place * kinds + 2) * width + column, grad_gate, inside)
    if ADDED:
        tl.store(bias_sums + place * width + column, grad_added, inside)


@triton.jit(do_not_specialize=["rows_a_term"])
def _add_gated(x, gate, addend, out, rows_a_term, step, width: tl.constexpr, W: tl.constexpr):
    row, column = tl.program_id(0), tl.arange(0, W)
    inside = column < width
    here = row.to(tl.int64) * width + column
    factor = wide(gate + row // rows_a_term * step + column, inside)
    tl.store(out + here, wide(x + here, inside) + factor * wide(addend + here, inside), inside)


@triton.jit(do_not_specialize=["rows"])
def _add_gated_backward(
    grad_out, more, gate, addend, grad_x, grad_addend, sums, bias_sums, rows, step,
    width: tl.constexpr, W: tl.constexpr, MORE: tl.constexpr,
):  # fmt: skip
    term, program, programs = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    column = tl.arange(0, W)
    inside = column < width
    factor = wide(gate + term * step + column, inside)
    grad_gate, grad_added = tl.zeros([W], tl.float32), tl.zeros([W], tl.float32)
    for row in tl.range(program, rows, programs, num_stages=3):  # loads run ahead
        here = (term.to(tl.int64) * rows + row) * width + column
        g = wide(grad_out + here, inside)
        if MORE:
            g += wide(more + here, inside)
            tl.store(grad_x + here, g, inside)
        grad_gate += g * wide(addend + here, inside)
        g *= factor
        grad_added += g
        tl.store(grad_addend + here, g, inside)
    place = (term * programs + program) * width + column
    tl.store(sums + place, grad_gate, inside)
    tl.store(bias_sums + place, grad_added, inside)


@triton.jit
def _places(first, rows, column, width, R: tl.constexpr):
    """Of these columns in R rows, and which are there."""
    row = first + tl.arange(0, R)[:, None]
    inside = (row < rows) & (column < width)[None, :]
    return row.to(tl.int64) * width + column[None, :], inside


@triton.jit(do_not_specialize=["rows"])
def _gelu_and_gradient(
    x, grad_gelu, gelu, grad_x, sums, rows, width: tl.constexpr, R: tl.constexpr, W: tl.constexpr
):
    column = tl.program_id(0) * W + tl.arange(0, W)
    program, programs = tl.program_id(1), tl.num_programs(1)
    found = tl.zeros([R, W], tl.float32)
    for first in range(program * R, rows, programs * R):
        place, inside = _places(first, rows, column, width, R)
        value, g = wide(x + place, inside), wide(grad_gelu + place, inside)
        # (1 + tanh(u)) / 2 is sigmoid(2 u); u = sqrt(2 / pi) (x + 0.044715 x^3)
        slope: tl.constexpr = 1.5957691216057308
        share = tl.sigmoid(slope * value * (1 + 0.044715 * value * value))
        tl.store(gelu + place, value * share, inside)
        steepness = slope * (1 + 3 * 0.044715 * value * value)
        g *= share * (1 + value * (1 - share) * steepness)
        found += g
        tl.store(grad_x + place, g, inside)
    tl.store(sums + program * width + column, tl.sum(found, 0), column < width)


@triton.jit(do_not_specialize=["rows"])
def _sum_columns(x, sums, rows, width: tl.constexpr, R: tl.constexpr, W: tl.constexpr):
    column = tl.program_id(0) * W + tl.arange(0, W)
    program, programs = tl.program_id(1), tl.num_programs(1)
    found = tl.zeros([R, W], tl.float32)
    for first in range(program * R, rows, programs * R):
        place, inside = _places(first, rows, column, width, R)
        found += wide(x + place, inside)
    tl.store(sums + program * width + column, tl.sum(found, 0), column < width)


@triton.jit(do_not_specialize=["count", "programs"])
def _total(
    sums, out, bias_sums, grad_bias, count, programs, width, bias_width,
    P: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    if bias_sums is not None:  # noqa: SIM102 - settled when it compiles
        if row == count:
            sums, out, row = bias_sums, grad_bias, 0
            programs, width = count * programs, bias_width
    column = tl.program_id(1) * W + tl.arange(0, W)
    found = tl.zeros([P, W], tl.float32)
    for first in range(0, programs, P):
        program = first + tl.arange(0, P)[:, None]
        inside = (program < programs) & (column < width)[None, :]
        found += tl.load(sums + (row * programs + program) * width + column[None, :], inside, 0.0)
    tl.store(out + row * width + column, tl.sum(found, 0), column < width)
