"""Autograd functions for the parts of a block between its attentions, on a GPU.

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
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs, each of its input's shape, from that of the sum [B, T, S, D]."""
        grad_x, grad_addend, grad_gate, grad_bias = gated_sum_backward(grad_out, *ctx.saved_tensors)
        return grad_x, grad_gate, grad_addend, grad_bias


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
    def backward(ctx: Any, grad_x: Tensor, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs, each of its input's shape; those of x become one in a pass.

        Given are those of the sum, [B, T, S, D], and of the layer's values, [B, T, S, E].
        """
        *given, weight = ctx.saved_tensors
        grad_out = grad_out.contiguous()
        found = modulated_backward(grad_x, grad_out @ weight, *given)
        grad_weight = _grad_weight(ctx, 6, grad_out, found.modulated)
        grad_pending = found.grad_gate, found.grad_addend, found.grad_bias
        grad_terms = found.grad_shift, found.grad_scale
        return found.grad_x, *grad_pending, *grad_terms, grad_weight, _grad_bias(ctx, 7, grad_out)


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
    def backward(ctx: Any, grad_x: Tensor, grad_then: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs, each of its input's shape.

        Given are those of the sum, [B, T, S, D], and of the second layer's values, [B, T, S, E].
        """
        gate, values, addend, weight, x, then_weight = ctx.saved_tensors
        grad_then = grad_then.contiguous()
        grad_x, grad_addend, grad_gate, grad_bias = gated_sum_backward(
            grad_x, gate, addend, grad_then @ then_weight
        )
        return (
            grad_x,
            grad_gate,
            grad_addend @ weight,
            _grad_weight(ctx, 3, grad_addend, values),
            grad_bias,
            _grad_weight(ctx, 5, grad_then, x),
            _grad_bias(ctx, 6, grad_then),
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
    def backward(ctx: Any, grad_x: Tensor, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs, each of its input's shape, from two of [B, T, S, D].

        They are those of the sum and of the network's values.
        """
        values, weight, x, shift, scale, hidden, weight1, weight2 = ctx.saved_tensors
        grad_out = grad_out.contiguous()
        gelu, grad_hidden, grad_bias1 = gelu_backward(grad_out @ weight2, hidden)
        grad_weight2 = _grad_weight(ctx, 8, grad_out, gelu)
        del gelu
        found = modulated_backward(grad_x, grad_hidden @ weight1, x, shift, scale, added=True)
        grad_weight1 = _grad_weight(ctx, 6, grad_hidden, found.modulated)
        grad_layer = (
            found.grad_x @ weight,
            _grad_weight(ctx, 2, found.grad_x, values),
            found.grad_bias,
        )
        grad_terms = found.grad_shift, found.grad_scale
        return found.grad_x, *grad_layer, *grad_terms, grad_weight1, grad_bias1, grad_weight2


def _grad_weight(ctx: Any, place: int, grad_out: Tensor, x: Tensor) -> Tensor | None:
    """The gradient of a linear layer's weight, input number `place`, unless it is frozen."""
    if not ctx.needs_input_grad[place]:
        return None
    return grad_out.flatten(0, -2).t() @ x.flatten(0, -2)


def _grad_bias(ctx: Any, place: int, grad_out: Tensor) -> Tensor | None:
    """The gradient of its bias, input number `place`: `grad_out` [..., D] contiguous as [D]."""
    return column_sums(grad_out) if ctx.needs_input_grad[place] else None
