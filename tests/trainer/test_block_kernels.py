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


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(3, 7), (2, 5, 920)])
@pytest.mark.parametrize("width", [72, 1152])
def test_an_mlp_and_its_gradients_equal_the_plain_ones_in_double_precision(shape, width):
    torch.manual_seed(0)
    layer, x, weight = Mlp(width, 4 * width, width), *torch.randn(2, *shape, width)
    found = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.bfloat16)):
        here = Mlp(width, 4 * width, width)
        here.load_state_dict({name: t.bfloat16() for name, t in layer.state_dict().items()})
        here = here.to(device, dtype)
        given = x.bfloat16().to(device, dtype).requires_grad_()
        out = here(given)
        out.backward(weight.bfloat16().to(device, dtype))
        found.append((out, given.grad, *(p.grad for p in here.parameters())))
    for one, expected in zip(found[1], found[0], strict=True):
        assert relative(one, expected) < 0.02


@pytest.mark.gpu
def test_frozen_layers_get_no_gradient():
    network = Mlp(72, 144, 72).requires_grad_(False).to("cuda", torch.bfloat16)
    x = torch.randn(1, 2, 6, 72, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    shift, scale = torch.zeros(2, 1, 1, 1, 72, device="cuda", dtype=torch.bfloat16)
    same, hidden = modulated_linear(x, shift, scale, network.fc1)
    (same + network.after(hidden)).float().square().sum().backward()
    assert x.grad.any()
    assert all(parameter.grad is None for parameter in network.parameters())
