import json
import math

import pytest
import torch
from safetensors.torch import load_file

from trainer.model.attention import (
    CrossAttention,
    lay_out_captions,
    rotate,
)
from trainer.model.layers import PendingResidual, modulate, normalise, sinusoid
from trainer.model.stdit3 import SIZES, STDiT3, STDiT3Config

CASES = ("plain", "text_mask", "x_mask", "image", "cfg_repeat")
ARGUMENTS = ("x", "timestep", "y", "mask", "x_mask", "fps", "height", "width")


@pytest.fixture(scope="module")
def facts(golden):
    return json.loads((golden / "stdit3_tiny_a.json").read_text())


@pytest.fixture(scope="module")
def cases(golden):
    return load_file(golden / "stdit3_tiny_a.cases.safetensors")


@pytest.fixture
def model(golden, facts):
    model = STDiT3(STDiT3Config(**facts["config"])).eval()
    state = load_file(golden / "stdit3_tiny_a.state.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model


def inputs(cases, case):
    found = {name: cases.get(f"{case}.in.{name}") for name in ARGUMENTS}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def relative(found, expected):
    return ((found.float() - expected).norm() / expected.norm()).item()


def smoke_model(**fields):
    torch.manual_seed(0)
    return STDiT3(STDiT3Config(**{**SIZES["STDiT3-smoke"], **fields}))


def random_inputs(shape=(2, 4, 3, 7, 9), lengths=(5, 32)):
    draws = torch.Generator().manual_seed(1)
    batch = shape[0]
    return {
        "x": torch.randn(shape, generator=draws),
        "timestep": torch.linspace(100, 900, batch),
        "y": torch.randn(batch, 1, 32, 32, generator=draws),
        "mask": (torch.arange(32) < torch.tensor(lengths)[:, None]).long(),
        "fps": torch.full((batch,), 24.0),
        "height": torch.tensor([56.0]),
        "width": torch.tensor([72.0]),
    }


@pytest.mark.parametrize("case", CASES)
def test_the_output_equals_the_references(model, cases, facts, case):
    out = model(**inputs(cases, case))
    torch.testing.assert_close(out, cases[f"{case}.out"], **facts["tolerance"]["out"])


@pytest.mark.parametrize("case", ["text_mask", "x_mask"])
def test_in_bf16_the_output_stays_near_the_references(model, cases, facts, case):
    given = {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor
        for name, tensor in inputs(cases, case).items()
    }
    out = model.bfloat16()(**given)
    assert out.dtype == torch.float32
    limit = facts["tolerance"]["out_bf16"]["rel_l2"]
    assert relative(out, cases[f"{case}.out_bf16"]) < limit


@pytest.mark.parametrize("mode", ["none", "every_block", 3])
@pytest.mark.parametrize("case", ["plain", "x_mask"])
def test_the_gradients_equal_the_references(model, cases, facts, case, mode):
    model.set_grad_checkpoint(mode)
    given = inputs(cases, case)
    for name in ("x", "y"):
        given[name] = given[name].clone().requires_grad_()
    out = model(**given)
    weight = cases[f"{case}.grad.loss_weight"]
    loss = (out * weight).sum() / out.numel() + out.square().mean()
    loss.backward()
    assert loss.item() == pytest.approx(cases[f"{case}.grad.loss"].item(), rel=1e-5)

    found = {f"param.{name}": tensor.grad for name, tensor in model.named_parameters()}
    found |= {f"input.{name}": given[name].grad for name in ("x", "y")}
    limit = facts["tolerance"]["grad"]["rel_l2"]
    prefix = f"{case}.grad."
    names = [key.removeprefix(prefix) for key in cases if key.startswith(prefix)]
    names = [name for name in names if name not in ("loss", "loss_weight")]
    assert len(names) == 16
    off = {name: relative(found[name], cases[prefix + name]) for name in names}
    assert {name: error for name, error in off.items() if error > limit} == {}
    norms = facts["cases"][case]["grad"]["grad_norm_per_parameter"]
    assert {name: found[f"param.{name}"].norm().item() for name in norms} == pytest.approx(
        norms, rel=1e-4
    )
    assert [n for n, p in model.named_parameters() if p.grad is None] == ["rope.freqs"]


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


@pytest.mark.parametrize("scale", ["", "small."])
@pytest.mark.parametrize("kind", ["spatial", "temporal"])
def test_a_block_equals_the_references(model, cases, facts, kind, scale):
    shape = facts["pieces"]["block"]
    x = cases[f"piece.{scale or 'block.'}x"].unflatten(1, (shape["T"], shape["S"]))
    packed, lengths = (cases[f"piece.block.y_{name}"] for name in ("packed", "lens"))
    y, captions = laid_out(packed[0], lengths)
    block = getattr(model, f"{kind}_blocks")[0]
    t, t0 = (cases[f"piece.block.{name}"].unflatten(1, (1, 6, -1)) for name in ("t6", "t0_6"))
    masked = torch.where(cases["piece.block.x_mask"][:, :, None, None], t, t0)
    stem = f"piece.small.block_{kind}0" if scale else f"piece.block.{kind}0"
    for name, modulation in (("out", t), ("out_x_mask", masked)):
        if f"{stem}.{name}" in cases:
            rotation = model.rope(shape["T"])
            out = block(PendingResidual(x), y, captions, modulation, rotation).add().flatten(1, 2)
            torch.testing.assert_close(out, cases[f"{stem}.{name}"], **facts["tolerance"]["pieces"])


def test_norms_of_small_values_equal_the_references(model, cases, facts):
    limits = facts["tolerance"]["pieces"]
    x = cases["piece.small.x"]
    torch.testing.assert_close(normalise(x), cases["piece.small.norm1.out"], **limits)
    final = model.final_layer(x[:, None], cases["piece.small.final_layer.t"], None, None)
    torch.testing.assert_close(final[:, 0], cases["piece.small.final_layer.out"], **limits)
    normed = model.spatial_blocks[0].attn.q_norm(cases["piece.small.q_norm.in"])
    torch.testing.assert_close(normed, cases["piece.small.q_norm.out"], **limits)


def laid_out(packed, lengths):
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    captions = lay_out_captions(mask, tuple(mask.shape), packed.device)
    y = packed.new_zeros(*mask.shape, packed.shape[-1])
    y[mask] = packed
    return y.flatten(0, 1)[captions.tokens], captions


def cross(layer, x, y, captions):
    return layer.proj(layer(layer.q_linear(x), y, captions))


def published_state(golden, name):
    return json.loads((golden / "model_state_names.json").read_text())["models"][name]


def test_xl_has_the_published_names_shapes_and_counts(golden):
    facts = published_state(golden, "STDiT3-XL/2")
    with torch.device("meta"):
        model = STDiT3(STDiT3Config(**SIZES["STDiT3-XL/2"], freeze_y_embedder=True))
    trainable = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    parameters = {name for name, _ in model.named_parameters()}
    assert {
        name: [list(tensor.shape), "param" if name in parameters else "buffer", name in trainable]
        for name, tensor in model.state_dict().items()
    } == facts["state"]
    # buffers of a module come before those of its parts, as in the published file
    assert list(model.state_dict())[:13] == list(facts["state"])[:13]
    assert sum(p.numel() for p in model.parameters()) == facts["totals"]["params"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 1_201_595_936


def test_3b_has_the_names_of_xl_with_wider_shapes_and_the_published_size(golden):
    with torch.device("meta"):
        model = STDiT3(STDiT3Config(**SIZES["STDiT3-3B/2"]))
    state = published_state(golden, "STDiT3-XL/2")["state"]
    # heads are as wide as XL's, 72, so only multiples of the width differ
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == {
        name: [size // 1152 * 1872 if size % 1152 == 0 else size for size in shape]
        for name, (shape, *_) in state.items()
    }
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_182_211_572
    assert model.rope.freqs.shape == (36,)


def test_a_new_model_has_the_references_zeros_and_its_temporal_blocks_change_nothing(facts):
    model = STDiT3(STDiT3Config(**facts["config"]))
    zeros = [name for name, tensor in model.named_parameters() if not tensor.any()]
    assert zeros == facts["zero_init_params"]
    x = torch.randn(2, 3, 4, 72)
    y, captions = laid_out(torch.randn(8, 72), torch.tensor([3, 5]))
    block = model.temporal_blocks[1]
    out = block(PendingResidual(x), y, captions, torch.randn(2, 1, 6, 72), model.rope(3))
    assert torch.equal(out.add(), x)


def test_a_frame_mask_that_keeps_all_changes_nothing():
    model, given = smoke_model(), random_inputs()
    every_frame = torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(model(**given, x_mask=every_frame), model(**given))


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


def test_a_caption_that_is_no_number_spoils_its_own_clip_alone():
    model, given = smoke_model(), random_inputs()
    bad = {**given, "y": given["y"].clone()}
    bad["y"][0] = torch.nan
    found = model(**bad)
    assert found[0].isnan().any()
    assert torch.equal(found[1], model(**given)[1])


def test_what_a_caption_holds_behind_its_mask_does_not_matter():
    model, given = smoke_model(), random_inputs()
    other = {**given, "y": given["y"].clone()}
    other["y"][0, :, 5:] = 7.0
    assert torch.equal(model(**given), model(**other))


def test_a_dropped_caption_reads_as_many_tokens_of_the_null_caption():
    model, given = smoke_model(), random_inputs()
    null = {**given, "y": given["y"].clone()}
    null["y"][1] = model.null_caption
    dropped = model(**given, drop_captions=torch.tensor([False, True]))
    torch.testing.assert_close(dropped, model(**null), rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_a_forward_pass_never_waits_for_the_device():
    model = smoke_model().to("cuda", torch.bfloat16).train()

    def given(lengths):
        on_host = ("mask", "height", "width")
        found = {
            name: tensor if name in on_host else tensor.to("cuda")
            for name, tensor in random_inputs(lengths=lengths).items()
        }
        frames = torch.tensor([[True, False, True], [True, True, True]], device="cuda")
        drop = torch.tensor([True, False], device="cuda")
        return {**found, "x_mask": frames, "drop_captions": drop}

    model(**given((5, 32)))
    for lengths in ((5, 32), (7, 3)):
        inputs = given(lengths)
        torch.cuda.set_sync_debug_mode("error")
        try:
            output = model(**inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert output.isfinite().all()


def test_masks_may_be_numbers_and_other_conditions_are_left_aside():
    model, given = smoke_model(), random_inputs()
    frames, drop = torch.tensor([[1, 0, 1], [1, 1, 1]]), torch.tensor([1, 0])
    bools = model(**given, x_mask=frames.bool(), drop_captions=drop.bool())
    numbers = model(**given, x_mask=frames.float(), drop_captions=drop, num_frames=9, ar=0.56)
    assert torch.equal(numbers, bools)


def test_a_caption_without_a_token_is_refused():
    with pytest.raises(ValueError, match="a caption without a single token"):
        smoke_model()(**random_inputs(lengths=(0, 4)))


def test_sizes_may_be_plain_numbers_and_only_the_first_counts():
    model, given = smoke_model(), random_inputs()
    other = {**given, "height": 56, "width": torch.tensor([72.0, 1.0])}
    assert torch.equal(model(**given), model(**other))


def test_a_bf16_model_has_positions_and_angles_of_bf16_frequencies():
    model = STDiT3(STDiT3Config(hidden_size=1152, depth=1)).bfloat16()
    scale = math.sqrt(240 * 426) / 512
    table = model.pos_embed(30, 53, scale=scale, base_size=40)
    chosen = [table[token, channel].item() for token, channel in ((1589, 5), (1589, 700), (1, 0))]
    assert chosen == pytest.approx([-0.106247, 0.921330, 0.935082], abs=2e-6)
    cos, _ = model.rope(120)
    assert cos.dtype == torch.bfloat16
    expected = torch.tensor([119.0, 92.0, 71.0]).cos().bfloat16()
    assert torch.equal(cos[119, :6:2], expected)


def test_only_the_asked_parts_train():
    frozen = {
        name
        for name, tensor in smoke_model(freeze_y_embedder=True).named_parameters()
        if not tensor.requires_grad
    }
    assert frozen == {
        "rope.freqs",
        *(f"y_embedder.y_proj.{fc}.{kind}" for fc in ("fc1", "fc2") for kind in ("weight", "bias")),
    }
    temporal = smoke_model(only_train_temporal=True)
    assert all(
        tensor.requires_grad == name.startswith("temporal_blocks.")
        for name, tensor in temporal.named_parameters()
    )


def test_drop_path_leaves_out_branches_in_training_only():
    model, given = smoke_model(drop_path=0.5), random_inputs()
    assert [block.drop_path for block in model.blocks] == [0.0, 0.0, 0.5, 0.5]
    model.eval()
    assert torch.equal(model(**given), model(**given))
    gate = torch.ones(1000, 1, 1, 4)
    last = model.train().spatial_blocks[1]
    gates = last._drop(gate)[:, 0, 0, 0]
    assert set(gates.tolist()) == {0.0, 2.0}
    assert 400 < gates.count_nonzero() < 600


def test_modulation_is_exact():
    x, shift, scale = torch.randn(3, 2, 4, 8), torch.randn(3, 1, 1, 8), torch.randn(3, 1, 1, 8)
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + scale) + shift)
