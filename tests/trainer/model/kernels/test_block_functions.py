import pytest
import torch
from torch import nn

from trainer.model.layers import (
    Mlp,
    PendingResidual,
    add_gated_then_linear,
    add_gated_then_modulated_linear,
    add_then_gated_mlp,
)

SHAPES = [((2, 3, 5), 1), ((2, 3, 700), 3), ((1, 15, 920), 1), ((3, 1, 64), 1)]  # rows, terms in T


def relative(found, expected):
    return ((found.double().cpu() - expected).norm() / expected.norm()).item()


class WithoutAttention(nn.Module):
    """A block whose attentions are products and sums."""

    def __init__(self, width):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q, self.cross_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.mlp = Mlp(width, 4 * width, width)

    def forward(self, stream, table):
        shift, scale, gate, *of_mlp = table[:, :, :, None].unbind(2)
        x, qkv = add_gated_then_modulated_linear(stream, shift, scale, self.qkv)
        q, k, v = qkv.chunk(3, -1)
        x, q = add_gated_then_linear(x, gate, q * k + v, self.proj, self.q)
        return add_then_gated_mlp(x, q + q * q, self.cross_proj, tuple(of_mlp), self.mlp)


def learn(block, x, table, weight):
    """Everything that comes out of the block when it runs twice, and all gradients."""
    x, table = given = [tensor.clone().requires_grad_() for tensor in (x, table)]
    out = block(block(PendingResidual(x), table), table).add()
    out.backward(weight)
    return [out, *(tensor.grad for tensor in (*given, *block.parameters()))]


@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "terms"), SHAPES)
@pytest.mark.parametrize("width", [72, 1152, 1872])
def test_a_block_and_its_gradients_equal_the_plain_ones_in_double_precision(shape, terms, width):
    torch.manual_seed(0)
    inputs = (
        torch.randn(*shape, width) + 1,
        torch.randn(shape[0], terms, 6, width),
        torch.randn(*shape, width),
    )
    exact = WithoutAttention(width).bfloat16().double()
    here = WithoutAttention(width)
    here.load_state_dict(exact.state_dict())
    here = here.to("cuda", torch.bfloat16)
    expected = learn(exact, *(t.bfloat16().double() for t in inputs))
    found = learn(here, *(t.to("cuda", torch.bfloat16) for t in inputs))
    for one, other in zip(found, expected, strict=True):
        assert relative(one, other) < 0.02


@pytest.mark.gpu
def test_frozen_layers_get_no_gradient():
    block = WithoutAttention(72).requires_grad_(False).to("cuda", torch.bfloat16)
    inputs = (torch.randn(1, *size) for size in ((2, 6, 72), (1, 6, 72), (2, 6, 72)))
    _, of_x, of_table, *others = learn(block, *(t.to("cuda", torch.bfloat16) for t in inputs))
    assert of_x.any()
    assert of_table.any()
    assert all(gradient is None for gradient in others)
