"""What lies between a block's attentions, and between blocks, with gradients of its own, on a GPU.

A block is three functions, cut at its attentions. What is cheap is made again for the backward pass
instead of kept: norms and GELU.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.model.kernels.blocks import (
    column_sums,
    gated_sum,
    gated_sum_backward,
    gelu_backward,
    modulated_backward,
    modulated_norm,
)


class AddGated(torch.autograd.Function):
    """x + gate * (addend + bias)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, addend: Tensor, bias: Tensor) -> Tensor:
        """x, addend [B, T, S, D] contiguous; gate [B, T or 1, 1, D]; bias [D]."""
        addend = addend + bias
        ctx.save_for_backward(gate, addend)
        return gated_sum(x, gate, addend)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs."""
        of_x, of_addend, of_gate, of_bias = gated_sum_backward(of_out, *ctx.saved_tensors)
        return of_x, of_gate, of_addend, of_bias


class AddGatedThenModulatedLinear(torch.autograd.Function):
    """x' = x + gate * (addend + bias), or x alone; x' and a linear layer of its modulated norm.

    The norm is made again for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gate: Tensor | None,
        addend: Tensor | None,
        bias: Tensor | None,
        shift: Tensor,
        scale: Tensor,
        weight: Tensor,
        layer_bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """x, addend [B, T, S, D] contiguous; terms and gate [B, T or 1, 1, D]."""
        x, modulated = modulated_norm(x, shift, scale, addend, gate, bias)
        ctx.save_for_backward(x, shift, scale, addend, gate, bias, weight)
        return x, F.linear(modulated, weight, layer_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_x: Tensor, of_out: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs; those of x become one without an addition between."""
        *given, weight = ctx.saved_tensors
        of_out = of_out.contiguous()
        found = modulated_backward(of_x, of_out @ weight, *given)
        of_weight = _of_weight(ctx, 6, of_out, found.modulated)
        of_pending = found.of_gate, found.of_addend, found.of_bias
        of_terms = found.of_shift, found.of_scale
        return found.of_x, *of_pending, *of_terms, of_weight, _of_bias(ctx, 7, of_out)


class AddGatedThenLinear(torch.autograd.Function):
    """x' = x + gate * a linear layer of other values; x' and another layer of it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gate: Tensor,
        values: Tensor,
        weight: Tensor,
        bias: Tensor,
        then_weight: Tensor,
        then_bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """x, values [B, T, S, D] contiguous; gate [B, T or 1, 1, D]."""
        addend = F.linear(values, weight, bias)
        x = gated_sum(x, gate, addend)
        ctx.save_for_backward(gate, values, addend, weight, x, then_weight)
        return x, F.linear(x, then_weight, then_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_x: Tensor, of_then: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs."""
        gate, values, addend, weight, x, then_weight = ctx.saved_tensors
        of_then = of_then.contiguous()
        of_x, of_addend, of_gate, of_bias = gated_sum_backward(
            of_x, gate, addend, of_then @ then_weight
        )
        return (
            of_x,
            of_gate,
            of_addend @ weight,
            _of_weight(ctx, 3, of_addend, values),
            of_bias,
            _of_weight(ctx, 5, of_then, x),
            _of_bias(ctx, 6, of_then),
        )


class AddThenMlp(torch.autograd.Function):
    """x' = x + a linear layer of other values; x' and an MLP, without its last bias, of its norm.

    The norm is modulated; it and GELU are made again for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        values: Tensor,
        weight: Tensor,
        bias: Tensor,
        shift: Tensor,
        scale: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        weight2: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As `AddGatedThenLinear` and `AddGatedThenModulatedLinear`."""
        x, modulated = modulated_norm(x, shift, scale, F.linear(values, weight, bias))
        hidden = F.linear(modulated, weight1, bias1)
        ctx.save_for_backward(values, weight, x, shift, scale, hidden, weight1, weight2)
        return x, F.linear(F.gelu(hidden, approximate="tanh"), weight2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_x: Tensor, of_out: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs."""
        values, weight, x, shift, scale, hidden, weight1, weight2 = ctx.saved_tensors
        of_out = of_out.contiguous()
        gelu, of_hidden, of_bias1 = gelu_backward(of_out @ weight2, hidden)
        of_weight2 = _of_weight(ctx, 8, of_out, gelu)
        del gelu
        found = modulated_backward(of_x, of_hidden @ weight1, x, shift, scale, added=True)
        of_weight1 = _of_weight(ctx, 6, of_hidden, found.modulated)
        of_layer = found.of_x @ weight, _of_weight(ctx, 2, found.of_x, values), found.of_bias
        of_terms = found.of_shift, found.of_scale
        return found.of_x, *of_layer, *of_terms, of_weight1, of_bias1, of_weight2


def _of_weight(ctx: Any, place: int, of_out: Tensor, x: Tensor) -> Tensor | None:
    """The gradient of a linear layer's weight, input number `place`, unless it is frozen."""
    if not ctx.needs_input_grad[place]:
        return None
    return of_out.flatten(0, -2).t() @ x.flatten(0, -2)


def _of_bias(ctx: Any, place: int, of_out: Tensor) -> Tensor | None:
    """The gradient of its bias, input number `place`: `of_out` [..., D] contiguous as [D]."""
    return column_sums(of_out) if ctx.needs_input_grad[place] else None
