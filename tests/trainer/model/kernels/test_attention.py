import pytest
import torch

from trainer.model.attention import (
    RotaryEmbedding,
    SelfAttention,
)

# [B, T, S]; for one frame and for more than 128 there is another way
SHAPES = [(2, 1, 6), (2, 5, 6), (1, 15, 7), (1, 30, 4), (2, 120, 3), (1, 130, 2)]


def relative(found, expected):
    return ((found.double() - expected).norm() / expected.norm().clamp(min=1e-9)).item()


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("over_time", [False, True])
def test_attention_and_its_gradients_equal_the_plain_ones_in_double_precision(shape, over_time):
    torch.manual_seed(0)
    layer = SelfAttention(144, 2, qk_norm=True)
    for norm in (layer.q_norm, layer.k_norm):
        torch.nn.init.normal_(norm.weight)
    x, weight = torch.randn(*shape, 144), torch.randn(*shape, 144)
    rotation = RotaryEmbedding(72).bfloat16()(shape[1]) if over_time else None
    exact, here = layer.double(), SelfAttention(144, 2, qk_norm=True)
    exact.load_state_dict({name: t.bfloat16() for name, t in layer.state_dict().items()})
    here.load_state_dict(exact.state_dict())
    here = here.to("cuda", torch.bfloat16)

    outs = []
    for attend, device, dtype in ((exact, "cpu", torch.float64), (here, "cuda", torch.bfloat16)):
        turned = rotation and [part.to(device, dtype) for part in rotation]
        given = x.bfloat16().to(device, dtype).requires_grad_()
        out = attend.proj(attend(attend.qkv(given), turned))
        out.backward(weight.bfloat16().to(device, dtype))
        outs.append((out, given.grad))
    for found, expected in zip(outs[1], outs[0], strict=True):
        assert relative(found.cpu(), expected) < 0.02
    for name, parameter in here.named_parameters():
        expected = dict(exact.named_parameters())[name].grad
        if shape[1] == 1 and over_time and "norm" in name:
            assert not parameter.grad.any()  # a token that sees itself alone
        else:
            assert relative(parameter.grad.cpu(), expected) < 0.02, name
