import pytest
import torch
from torch import nn

from trainer.model.layers import (
    Mlp,
    add_gated_linear,
    add_gated_mlp,
    linear,
    modulated_linear,
)

SHAPES = [((2, 3, 5), 1), ((2, 3, 700), 3), ((1, 15, 920), 1), ((3, 1, 64), 1)]  # rows, terms in T


def relative(found, expected):
    return ((found.double().cpu() - expected).norm() / expected.norm()).item()


class Halves(nn.Module):
    """What a block does beside attention: both halves, with other layers between."""

    def __init__(self, width):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.middle, self.mlp = nn.Linear(width, width), Mlp(width, 4 * width, width)

    def forward(self, x, table):
        shift, scale, gate, *of_mlp = table[:, :, :, None].unbind(2)
        x, qkv = modulated_linear(x, shift, scale, self.qkv)
        q, k, v = qkv.chunk(3, -1)
        x = add_gated_linear(x, gate, (q * k + v).contiguous(), self.proj)
        x = x + linear(x.flatten(1, 2), self.middle.weight, self.middle.bias).view_as(x)
        return add_gated_mlp(x, *of_mlp, self.mlp)


def learn(halves, x, table, weight):
    """Everything that comes out and all gradients."""
    given = [tensor.clone().requires_grad_() for tensor in (x, table)]
    out = halves(*given)
    out.backward(weight)
    return [out, *(tensor.grad for tensor in (*given, *halves.parameters()))]


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
    exact = Halves(width).bfloat16().double()
    here = Halves(width)
    here.load_state_dict(exact.state_dict())
    here = here.to("cuda", torch.bfloat16)
    expected = learn(exact, *(t.bfloat16().double() for t in inputs))
    found = learn(here, *(t.to("cuda", torch.bfloat16) for t in inputs))
    for one, other in zip(found, expected, strict=True):
        assert relative(one, other) < 0.02


@pytest.mark.gpu
def test_frozen_layers_get_no_gradient():
    halves = Halves(72).requires_grad_(False).to("cuda", torch.bfloat16)
    inputs = (torch.randn(1, *size) for size in ((2, 6, 72), (1, 6, 72), (2, 6, 72)))
    _, of_x, of_table, *others = learn(halves, *(t.to("cuda", torch.bfloat16) for t in inputs))
    assert of_x.any()
    assert of_table.any()
    assert all(gradient is None for gradient in others)
