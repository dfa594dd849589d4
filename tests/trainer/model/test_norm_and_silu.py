import pytest
import torch
import torch.nn.functional as F

from trainer.model.norm_and_silu import NormAndSilu

SHAPES = [(2, 128, 9, 13), (1, 512, 40, 30), (1, 256, 5, 12, 14), (4, 128, 90, 160)]


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_norm_and_silu_equal_the_plain_ones_in_double_precision(shape):
    torch.manual_seed(0)
    norm = NormAndSilu(32, shape[1], eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (2 * torch.randn(shape) + 5).bfloat16()
    norm.bfloat16()
    weight, bias = norm.weight.double(), norm.bias.double()
    expected = F.silu(F.group_norm(x.double(), 32, weight, bias, norm.eps))
    with torch.no_grad():
        found = norm.to("cuda")(x.to("cuda")).cpu().double()
    assert (found - expected).norm() / expected.norm() < 0.01
