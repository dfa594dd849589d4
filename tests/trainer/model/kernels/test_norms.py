import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.gpu
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
SHAPES = [(2, 128, 9, 13), (1, 512, 40, 30), (1, 256, 5, 12, 14), (4, 128, 90, 160)]


@pytest.fixture
def norms():
    from trainer.model.kernels import norms  # needs Triton

    return norms


def draw(shape, mean=0.0):
    x = (2 * torch.randn(shape, device="cuda") + mean).bfloat16()
    return x.contiguous(memory_format=LAST[x.ndim])


def group_norm(channels):
    norm = torch.nn.GroupNorm(32, channels, eps=1e-6).to("cuda")
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    return norm.bfloat16().requires_grad_(False)


def like_bias(bias, x):
    return bias.double().view(1, -1, *[1] * (x.ndim - 2))


def off(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_norm_of_what_lacks_a_bias_and_silu_equal_the_plain_ones_in_double_precision(norms, shape):
    x, norm, bias = draw(shape, 5.0), group_norm(shape[1]), torch.randn(shape[1], device="cuda")
    scale = norms.scales(norms.moments(x), norm, bias, x[0, 0].numel())
    weight, shift = norm.weight.double(), norm.bias.double()
    whole = x.double() + like_bias(bias, x)
    expected = F.silu(F.group_norm(whole, 32, weight, shift, norm.eps))
    assert off(norms.normalise(x, scale), expected) < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sum_brings_its_moments(norms, shape):
    x, y, norm = draw(shape, 3.0), draw(shape), group_norm(shape[1])
    bias = torch.randn(shape[1], device="cuda")
    total, moments = norms.add(x, y, bias)
    assert off(total, x.double() + y.double() + like_bias(bias, x)) < 0.004
    scale = norms.scales(moments, norm, None, x[0, 0].numel())
    weight, shift = norm.weight.double(), norm.bias.double()
    expected = F.group_norm(total.double(), 32, weight, shift, norm.eps)
    assert off(norms.normalise(total, scale, silu=False), expected) < 0.01


def test_a_sum_stands_where_the_next_convolution_reads_it(norms):
    flat, film = draw((3, 128, 9, 13)), draw((2, 256, 5, 6, 7))
    bias = torch.randn(256, device="cuda")
    whole = flat.double() + flat.double() + like_bias(bias[:128], flat)
    padded = norms.add_into(flat, flat, bias[:128], after=1)
    assert off(padded, F.pad(whole, (0, 1, 0, 1))) < 0.004
    larger = norms.add_into(flat, flat, bias[:128], times=2)
    assert off(larger, F.interpolate(whole, scale_factor=2.0)) < 0.004
    later = norms.add_into(film, film, bias, before=2)
    expected = F.pad(2 * film.double() + like_bias(bias, film), (0, 0, 0, 0, 2, 0))
    assert off(later, expected) < 0.004
    scale = norms.scales(norms.moments(film), group_norm(256), None, film[0, 0].numel())
    later = norms.normalise(film, scale, before=2)
    assert not later[:, :, :2].any()
    assert torch.equal(later[:, :, 2:], norms.normalise(film, scale))
