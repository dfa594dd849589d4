import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.model.layers import Mlp, add_gated, modulate, modulated_linear, normalise


def relative(found, expected):
    return ((found.double().cpu() - expected).norm() / expected.norm()).item()


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("shape", "terms"), [((2, 3, 5), 1), ((2, 3, 700), 3), ((1, 15, 920), 1), ((3, 1, 64), 1)]
)
@pytest.mark.parametrize("width", [72, 1152, 1872])
def test_modulation_and_its_gradients_equal_the_plain_ones_in_double_precision(shape, terms, width):
    torch.manual_seed(0)
    layer = nn.Linear(width, width)
    inputs = (
        torch.randn(*shape, width) + 1,
        torch.randn(*shape, width) + 1,
        torch.randn(shape[0], terms, 3, width),
        *layer.parameters(),
    )
    weight = torch.randn(*shape, width)
    found = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.bfloat16)):
        x, value, table, *weights = given = [
            t.detach().bfloat16().to(device, dtype).requires_grad_() for t in inputs
        ]
        shift, scale, gate = table[:, :, :, None].unbind(2)
        if device == "cpu":
            same, seen = x, F.linear(modulate(normalise(x), shift, scale), *weights)
            out = same + gate * (seen * value)
        else:
            here = nn.Linear(width, width)
            here.weight, here.bias = (nn.Parameter(tensor) for tensor in weights)
            given[3:] = here.parameters()
            same, seen = modulated_linear(x, shift, scale, here)
            out = add_gated(same, gate, seen * value)
        out.backward(weight.bfloat16().to(device, dtype))
        found.append((out, *(t.grad for t in given)))
    for one, expected in zip(found[1], found[0], strict=True):
        assert relative(one, expected) < 0.02


def test_an_mlp_and_its_gradients_equal_the_librarys():
    torch.manual_seed(0)
    ours = Mlp(6, 20, 5).double()
    plain = nn.Sequential(nn.Linear(6, 20), nn.GELU(approximate="tanh"), nn.Linear(20, 5)).double()
    plain.load_state_dict(dict(zip(plain.state_dict(), ours.state_dict().values(), strict=True)))
    x, weight = torch.randn(2, 3, 6).double(), torch.randn(2, 3, 5).double()
    grads = []
    for network in (ours, plain):
        given = x.clone().requires_grad_()
        network(given).backward(weight)
        grads.append([given.grad, *(p.grad for p in network.parameters())])
    torch.testing.assert_close(grads[0], grads[1])


def test_frozen_layers_of_an_mlp_get_no_gradient():
    network = Mlp(6, 20, 5).requires_grad_(False)
    x = torch.randn(2, 6, requires_grad=True)
    network(x).sum().backward()
    assert x.grad.any()
    assert all(parameter.grad is None for parameter in network.parameters())
