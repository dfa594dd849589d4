import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainer.model.flops import forward_flops
from trainer.model.stdit3 import SIZES, STDiT3, STDiT3Config


@pytest.mark.parametrize(
    ("shape", "tokens"), [((2, 3, 8, 6), 7), ((1, 1, 16, 16), 32), ((3, 9, 5, 7), 1)]
)
def test_the_formula_counts_what_torch_counts(shape, tokens):
    batch, frames, height, width = shape
    config = STDiT3Config(**SIZES["STDiT3-smoke"])
    mask = (torch.arange(32) < tokens).long().expand(batch, 32)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it counts this
        STDiT3(config)(
            torch.zeros(batch, 4, frames, height, width),
            torch.zeros(batch),
            torch.zeros(batch, 1, 32, 32),
            mask,
            fps=torch.ones(1),
            height=64,
            width=64,
        )
    counted = counter.get_total_flops()
    assert forward_flops(config, *shape, batch * tokens) == pytest.approx(counted, rel=0.01)


def test_xl_takes_2_3_gflop_for_a_token_of_360p():
    config = STDiT3Config(**SIZES["STDiT3-XL/2"])
    flops = forward_flops(config, 8, 15, 45, 80, 8 * 300)
    assert flops / (8 * 15 * 23 * 40) == pytest.approx(2.29e9, rel=0.01)
