import pytest
import torch

from tests.trainer.model.kernels.test_attention import relative
from trainer.model.attention import CrossAttention, lay_out_captions


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("lengths", "queries"),
    [((64, 64), 60), ((7, 300, 1), 60), ((3, 1, 9, 30, 2, 8), 1), ((130,), 2000)],
)
def test_cross_attention_and_its_gradients_equal_the_plain_ones_in_double_precision(
    lengths, queries
):
    torch.manual_seed(0)
    layer, count = CrossAttention(144, 2), len(lengths)
    x, y = torch.randn(count, queries, 144), torch.randn(count, max(lengths), 144)
    weight = torch.randn(x.shape)
    mask = torch.arange(y.shape[1]) < torch.tensor(lengths)[:, None]
    found = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.bfloat16)):
        here = CrossAttention(144, 2)
        here.load_state_dict({name: t.bfloat16() for name, t in layer.state_dict().items()})
        here = here.to(device, dtype)
        given = [t.bfloat16().to(device, dtype).requires_grad_() for t in (x, y)]
        captions = lay_out_captions(mask, tuple(mask.shape), given[0].device)
        read = here(here.q_linear(given[0]), given[1].flatten(0, 1)[captions.tokens], captions)
        out = here.proj(read)
        out.backward(weight.bfloat16().to(device, dtype))
        found.append((out, *(t.grad for t in (*given, *here.parameters()))))
    for one, expected in zip(found[1], found[0], strict=True):
        assert relative(one.cpu(), expected) < 0.02
