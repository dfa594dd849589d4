import torch

from trainer.model.layers import modulate, normalise, sinusoid


def test_the_embedders_equal_the_references(model, cases, facts):
    limits = facts["tolerance"]["pieces"]
    t = cases["piece.timestep_embedding.t"]
    expected = cases["piece.timestep_embedding.sinusoid"]
    # on another machine the last bit of a frequency may differ, which is 6e-5 at t = 1000
    torch.testing.assert_close(sinusoid(t), expected, rtol=0, atol=6e-5)
    torch.testing.assert_close(model.t_embedder(t), cases["piece.t_embedder.out"], **limits)
    fps = cases["piece.fps_embedder.in"]
    torch.testing.assert_close(model.fps_embedder(fps), cases["piece.fps_embedder.out"], **limits)
    for number, given in facts["pieces"]["pos_embed"].items():
        table = model.pos_embed(
            given["h"], given["w"], scale=given["scale"], base_size=given["base_size"]
        )
        torch.testing.assert_close(table[None], cases[f"piece.pos_embed.{number}"], **limits)


def test_captions_and_dropped_captions_equal_the_references(model, cases, facts):
    limits = facts["tolerance"]["pieces"]
    y = cases["piece.caption.in"]
    tokens = torch.arange(y.shape[0] * y.shape[2]).view(len(y), -1)
    for name, drop in (("out", None), ("out_dropped", cases["piece.caption.force_drop_ids"] == 1)):
        expected = cases[f"piece.caption.{name}"]
        found = model.y_embedder(y, tokens, drop).view_as(expected)
        torch.testing.assert_close(found, expected, **limits)


def test_norms_of_small_values_equal_the_references(model, cases, facts):
    limits = facts["tolerance"]["pieces"]
    x = cases["piece.small.x"]
    torch.testing.assert_close(normalise(x), cases["piece.small.norm1.out"], **limits)
    final = model.final_layer(x[:, None], cases["piece.small.final_layer.t"], None, None)
    torch.testing.assert_close(final[:, 0], cases["piece.small.final_layer.out"], **limits)
    normed = model.spatial_blocks[0].attn.q_norm(cases["piece.small.q_norm.in"])
    torch.testing.assert_close(normed, cases["piece.small.q_norm.out"], **limits)


def test_modulation_is_exact():
    x, shift, scale = torch.randn(3, 2, 4, 8), torch.randn(3, 1, 1, 8), torch.randn(3, 1, 1, 8)
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + scale) + shift)
