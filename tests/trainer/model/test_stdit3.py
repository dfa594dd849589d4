import json
import math

import pytest
import torch

from tests.trainer.model.tiny_stdit3 import laid_out, random_inputs, smoke_model
from trainer.model.layers import PendingResidual
from trainer.model.stdit3 import SIZES, STDiT3, STDiT3Config

CASES = ("plain", "text_mask", "x_mask", "image", "cfg_repeat")
ARGUMENTS = ("x", "timestep", "y", "mask", "x_mask", "fps", "height", "width")


def inputs(cases, case):
    found = {name: cases.get(f"{case}.in.{name}") for name in ARGUMENTS}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def relative(found, expected):
    return ((found.float() - expected).norm() / expected.norm()).item()


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


@pytest.mark.parametrize("mode", ["some", 0, -1])
def test_an_unknown_way_to_recompute_is_refused(mode):
    with pytest.raises(ValueError, match="expected none, every_block or n >= 1"):
        smoke_model().set_grad_checkpoint(mode)


@pytest.mark.parametrize(
    ("mode", "tokens_at_once", "again"),
    [
        ("every_block", 0, [0, 1, 2, 3]),
        ("none", 0, []),
        (3, 0, [0, 3]),
        ("every_block", 71, [0, 1, 2, 3]),
        ("every_block", 72, [0, 1, 2]),  # a block is kept, and the inputs of four
        ("every_block", 239, [0]),
        ("every_block", 240, []),
        (2, 72, [0, 2]),
    ],
)
def test_blocks_are_kept_as_far_as_tokens_at_once_reaches(mode, tokens_at_once, again):
    model = smoke_model()
    model.set_grad_checkpoint(mode, tokens_at_once)
    ran = []
    for number, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    out = model(**random_inputs(shape=(2, 4, 6, 8, 10)))  # 2 x 6 x 4 x 5 = 240 tokens
    assert ran == [0, 1, 2, 3]
    out.mean().backward()
    assert sorted(ran[4:]) == again


@pytest.mark.parametrize(
    ("tokens_at_once", "clips"), [(0, 7), (20, 1), (60, 1), (89, 1), (91, 2), (10_000, 167)]
)
def test_as_many_clips_go_through_at_once_as_tokens_at_once_holds(tokens_at_once, clips):
    model = smoke_model()
    model.set_grad_checkpoint("every_block", tokens_at_once)
    assert model.clips_at_once(torch.Size((7, 4, 3, 7, 9))) == clips  # 60 tokens each


PUBLISHED = {
    "architectures": ["STDiT3"],
    "auto_map": {"AutoModel": "configuration_stdit3.STDiT3"},
    "caption_channels": 4096,
    "class_dropout_prob": 0.1,
    "depth": 28,
    "drop_path": 0.0,
    "enable_flash_attn": True,
    "enable_layernorm_kernel": True,
    "enable_sequence_parallelism": False,
    "freeze_y_embedder": True,
    "hidden_size": 1152,
    "in_channels": 4,
    "input_size": [None, None, None],
    "input_sq_size": 512,
    "mlp_ratio": 4.0,
    "model_max_length": 300,
    "model_type": "STDiT3",
    "num_heads": 16,
    "only_train_temporal": False,
    "patch_size": [1, 2, 2],
    "pred_sigma": True,
    "qk_norm": True,
    "skip_y_embedder": False,
    "torch_dtype": "float32",
    "transformers_version": "4.36.2",
}


def test_a_published_config_json_is_taken_as_it_is():
    found = STDiT3Config.published(json.loads(json.dumps(PUBLISHED)))
    assert found == STDiT3Config(freeze_y_embedder=True)


def test_a_key_that_nobody_knows_is_named():
    with pytest.raises(ValueError, match=r"no setting of STDiT3: depht, rope_base"):
        STDiT3Config.published({**PUBLISHED, "rope_base": 1, "depht": 28})
