import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.gpu
SHAPES = [((2, 3, 5), 1), ((2, 3, 700), 3), ((1, 15, 920), 1)]  # rows; terms in T
WIDTHS = [72, 1152, 1872]


@pytest.fixture
def blocks():
    from trainer.model.kernels import blocks  # needs Triton

    return blocks


def draw(*shape):
    return torch.randn(shape, device="cuda").bfloat16()


def off(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(("shape", "terms"), SHAPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_gated_sum_and_a_modulated_norm_equal_the_plain_ones_in_double_precision(
    blocks, shape, terms, width
):
    x, addend = draw(*shape, width), draw(*shape, width)
    gate, shift, scale = (draw(shape[0], terms, 1, width) for _ in range(3))
    bias = draw(width)
    total = x.double() + gate.double() * addend.double()
    assert off(blocks.gated_sum(x, gate, addend), total) < 0.01
    total = x.double() + gate.double() * (addend.double() + bias.double())
    added, normal = blocks.modulated_norm(x, shift, scale, addend, gate, bias)
    assert off(added, total) < 0.01
    plain = F.layer_norm(total, (width,), eps=1e-6) * (1 + scale.double()) + shift.double()
    assert off(normal, plain) < 0.01


@pytest.mark.parametrize("rows", [1, 63, 5000])
def test_sums_of_columns_and_gradients_of_gelu_equal_the_plain_ones(blocks, rows):
    x, grad = draw(rows, 288), draw(rows, 288)
    assert off(blocks.column_sums(x), x.double().sum(0)) < 0.01
    exact = x.double().requires_grad_()
    plain = F.gelu(exact, approximate="tanh")
    plain.backward(grad.double())
    gelu, grad_x, sums = blocks.gelu_backward(grad, x)
    assert off(gelu, plain.detach()) < 0.01
    assert off(grad_x, exact.grad) < 0.01
    assert off(sums, exact.grad.sum(0)) < 0.01
