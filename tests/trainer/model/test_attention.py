import torch

from tests.trainer.model.tiny_stdit3 import laid_out, random_inputs, smoke_model
from trainer.model.attention import CrossAttention, lay_out_captions, rotate


def test_attention_equals_the_references(model, cases, facts):
    limits = facts["tolerance"]["pieces"]
    x = cases["piece.attn_spatial0.in"]
    spatial, temporal = model.spatial_blocks[0], model.temporal_blocks[0]
    seen = spatial.attn.proj(spatial.attn(spatial.attn.qkv(x[:, None])))[:, 0]
    torch.testing.assert_close(seen, cases["piece.attn_spatial0.out"], **limits)
    qkv = temporal.attn.qkv(x[:, :, None])
    turned = temporal.attn.proj(temporal.attn(qkv, model.rope(x.shape[1])))[:, :, 0]
    torch.testing.assert_close(turned, cases["piece.attn_temporal0.out"], **limits)
    heads = cases["piece.rope.in"].transpose(1, 2)[:, :, None]
    rotated = rotate(heads, *model.rope(heads.shape[1]))[:, :, 0].transpose(1, 2)
    torch.testing.assert_close(rotated, cases["piece.rope.out"], **limits)
    packed, lengths = (cases[f"piece.cross_attn_spatial0.y_{name}"] for name in ("packed", "lens"))
    crossed = cross(spatial.cross_attn, x, *laid_out(packed[0], lengths))
    torch.testing.assert_close(crossed, cases["piece.cross_attn_spatial0.out"], **limits)


def cross(layer, x, y, captions):
    return layer.proj(layer(layer.q_linear(x), y, captions))


def test_captions_of_equal_length_need_no_padding_and_give_the_same():
    model = smoke_model()
    given = random_inputs(lengths=(9, 9))
    unequal = random_inputs(lengths=(9, 32))
    assert lay_out_captions(given["mask"], (2, 32), given["x"].device).lengths is None
    torch.testing.assert_close(model(**given)[0], model(**unequal)[0], rtol=1e-5, atol=1e-5)


def test_padding_of_captions_has_no_weight_and_no_part_in_gradients():
    layer = CrossAttention(72, 2).double()
    x, y = torch.randn(2, 12, 72).double(), torch.randn(8, 72).double()
    weight = torch.randn(x.shape).double()

    def gradients(attend):
        inputs = [x.clone().requires_grad_(), y.clone().requires_grad_()]
        layer.zero_grad()
        out = attend(*inputs)
        out.backward(weight)
        return [out, *(one.grad for one in (*inputs, *layer.parameters()))]

    def apart(x, y):
        pairs = zip(x.split(1), y.split([3, 5]), strict=True)
        laid = [(a, *laid_out(b, torch.tensor([len(b)]))) for a, b in pairs]
        return torch.cat([cross(layer, *one) for one in laid])

    def together(x, y):
        return cross(layer, x, *laid_out(y, torch.tensor([3, 5])))

    torch.testing.assert_close(gradients(together), gradients(apart))
