import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from trainer.config import load_stage
from trainer.model.stdit3 import STDiT3, STDiT3Config
from trainer.rectified_flow import RectifiedFlow

CONFIG = load_stage("stage1").config.flow
FLOW = RectifiedFlow(CONFIG)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
IMAGE = {"height": 512, "width": 512, "latent_frames": 1}  # a size at which nothing is shifted


def reference_latent_frames(num_frames: int) -> int:
    """Latent length by which the reference shifts timesteps: remainders of 17 are dropped.

    It is wrong for 2 to 16 frames (0) and for every remainder.
    """
    return 1 if num_frames == 1 else num_frames // 17 * 5


def published_formula(z, t):
    velocity = 0.5 * z + 0.3 * (t / 1000).view(-1, 1, 1, 1, 1) + 0.1 * torch.sin(z)
    return torch.cat([velocity, 7 + 0 * velocity], 1)


@pytest.mark.parametrize("case", ["plain", "masked"])
def test_noised_latents_and_loss_of_each_clip_are_the_published_ones(golden, case):
    tensors = load_file(golden / "rflow.safetensors")
    start, noise, t = (tensors[f"{case}.{key}"] for key in ("x_start", "noise", "t"))
    mask = tensors.get(f"{case}.mask")
    seen = []

    def model(z, t, *, x_mask, fps):
        assert x_mask is mask
        assert fps == 24
        seen.append(z)
        return published_formula(z, t)

    loss = FLOW.training_loss(model, start, noise, t, {"fps": 24}, mask)
    torch.testing.assert_close(seen[0], tensors[f"{case}.x_t_seen_by_model"], **CLOSE)
    torch.testing.assert_close(loss, tensors[f"{case}.loss_per_sample"], **CLOSE)
    torch.testing.assert_close(
        FLOW.add_noise(start, noise, t), tensors[f"{case}.add_noise"], **CLOSE
    )


def test_a_model_without_a_second_half_has_the_same_loss(golden):
    tensors = load_file(golden / "rflow.safetensors")
    start, noise, t = (tensors[f"plain.{key}"] for key in ("x_start", "noise", "t"))

    def model(z, t, x_mask):
        return published_formula(z, t)[:, :4]

    loss = FLOW.training_loss(model, start, noise, t, {}, None)
    torch.testing.assert_close(loss, tensors["plain.loss_per_sample"], **CLOSE)


def test_bf16_latents_are_noised_in_fp32_and_their_target_is_bf16():
    draws = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 2, 4, 3, 2, 2, generator=draws).bfloat16()
    t = torch.tensor([123.4, 876.5])
    share = (t / 1000).view(-1, 1, 1, 1, 1)
    expected_z = (1 - share) * latents.float() + share * noise.float()
    seen = []

    def model(z, t, x_mask):
        seen.append(z)
        return torch.zeros_like(z)

    loss = FLOW.training_loss(model, latents, noise, t, {}, None)
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(seen[0], expected_z)
    target = (latents - noise).float()
    torch.testing.assert_close(loss, target.square().mean(dim=(1, 2, 3, 4)))
    assert not torch.equal(target, latents.float() - noise.float())


def test_given_frames_change_neither_the_loss_nor_their_gradient():
    draws = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 2, 4, 3, 2, 2, generator=draws)
    mask = torch.tensor([[False, True, True], [True, False, False]])
    scale = torch.ones_like(latents, requires_grad=True)
    FLOW.training_loss(
        lambda z, t, x_mask: scale * z, latents, noise, torch.full((2,), 500.0), {}, mask
    ).sum().backward()
    by_frame = scale.grad.abs().sum(dim=(1, 3, 4))
    assert torch.equal(by_frame > 0, mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_times_are_shifted_as_published(golden, dtype):
    tensors = load_file(golden / "rflow.safetensors")
    t = tensors["timestep_transform.t"]
    name = "timestep_transform.out" + ("_bf16_meta" if dtype == torch.bfloat16 else "")
    rows = tensors["timestep_transform.height_width_frames_scale"].tolist()
    for (height, width, frames, scale), expected in zip(rows, tensors[name], strict=True):
        latent_frames = reference_latent_frames(int(frames))
        shifted = FLOW.transform(
            t,
            height=torch.tensor(height, dtype=dtype),
            width=torch.tensor(width, dtype=dtype),
            latent_frames=torch.tensor(latent_frames, dtype=dtype),
            scale=scale,
        )
        torch.testing.assert_close(shifted, expected, rtol=1e-5, atol=1e-4)
        if dtype == torch.float32:
            plain = FLOW.transform(
                t, height=height, width=width, latent_frames=latent_frames, scale=scale
            )
            torch.testing.assert_close(plain, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "frames", "in_fp32", "in_bf16"),
    [
        (512, 512, 1, (100.0, 500.0, 900.0), (100.0, 500.0, 900.0)),
        (144, 256, 1, (40.0, 272.7273, 771.4285), (40.0, 272.7273, 771.4285)),
        (240, 426, 51, (211.8208, 707.4931, 956.0796), (212.0383, 707.7625, 956.1344)),
        (360, 640, 102, (363.2781, 836.9982, 978.8199), (362.8318, 836.7347, 978.7798)),
        (720, 1280, 102, (532.9479, 911.2673, 989.2966), (532.4675, 911.1111, 989.2761)),
        (480, 854, 408, (603.4965, 931.9654, 991.9540), (603.3057, 931.9149, 991.9476)),
        (720, 1280, 204, (617.4070, 935.5823, 992.4078), (617.0213, 935.4839, 992.3954)),
    ],
)
def test_sizes_in_bf16_shift_times_as_the_published_weights_were_trained(
    height, width, frames, in_fp32, in_bf16
):
    t = torch.tensor([100.0, 500.0, 900.0])
    sizes = {"height": height, "width": width, "latent_frames": reference_latent_frames(frames)}
    rounded = {key: torch.tensor(size, dtype=torch.bfloat16) for key, size in sizes.items()}
    torch.testing.assert_close(FLOW.transform(t, **sizes), torch.tensor(in_fp32), rtol=2e-6, atol=0)
    torch.testing.assert_close(
        FLOW.transform(t, **rounded), torch.tensor(in_bf16), rtol=2e-6, atol=0
    )


def test_sizes_in_fp16_do_not_overflow():
    t = torch.tensor([100.0, 500.0, 900.0])
    sizes = {"height": 720, "width": 1280, "latent_frames": 15}
    halves = {key: torch.tensor([size]).half() for key, size in sizes.items()}
    torch.testing.assert_close(FLOW.transform(t, **halves), FLOW.transform(t, **sizes))


def test_short_videos_and_odd_lengths_are_shifted_by_their_latent_length():
    t = torch.tensor([500.0])
    shifted = [
        FLOW.transform(t, height=512, width=512, latent_frames=frames).item()
        for frames in (1, 2, 4, 18)
    ]
    assert shifted == pytest.approx([1000 * r / (1 + r) for r in (1, 2**0.5, 2, 18**0.5)])


def test_drawn_times_have_the_published_distribution(golden):
    for case in json.loads((golden / "rflow.json").read_text())["sampled_t"]:
        config = dataclasses.replace(
            CONFIG,
            sample_method=case["sample_method"],
            use_timestep_transform=case["use_timestep_transform"],
        )
        t = RectifiedFlow(config).draw_timesteps(
            400_000,
            torch.Generator().manual_seed(1),
            height=case["height"],
            width=case["width"],
            latent_frames=reference_latent_frames(case["num_frames"]),
        )
        assert t.dtype == torch.float32
        assert 0 <= t.min() <= t.max() <= 1000
        assert t.mean().item() == pytest.approx(case["mean"], abs=1.5)
        assert t.std().item() == pytest.approx(case["std"], abs=1.5)
        ordered = t.sort().values
        for quantile, value in case["quantiles"].items():
            drawn = ordered[int(float(quantile) * len(t))].item()
            assert drawn == pytest.approx(value, abs=10), (case, quantile)  # 1 % of 1000


def test_the_first_normal_draws_become_the_published_times():
    flow = RectifiedFlow(dataclasses.replace(CONFIG, use_timestep_transform=False))
    t = flow.draw_timesteps(4, torch.Generator().manual_seed(42), **IMAGE)
    expected = torch.tensor([583.4, 532.2, 558.3, 557.3])
    torch.testing.assert_close(t, expected, rtol=0, atol=0.06)


def test_location_and_scale_of_the_draws_and_the_training_shift_are_settings():
    seed = torch.Generator().manual_seed
    plain = FLOW.draw_timesteps(5, seed(3), **IMAGE)
    config = dataclasses.replace(CONFIG, loc=0.5, scale=2.0)
    drawn = RectifiedFlow(config).draw_timesteps(5, seed(3), **IMAGE)
    normal = torch.logit(plain / 1000)
    torch.testing.assert_close(drawn, 1000 * torch.sigmoid(2 * normal + 0.5), rtol=1e-5, atol=0)
    shifting = RectifiedFlow(dataclasses.replace(CONFIG, transform_scale=3.0))
    torch.testing.assert_close(
        shifting.draw_timesteps(5, seed(3), **IMAGE), 3000 * plain / (1000 + 2 * plain)
    )
    assert torch.equal(
        shifting.sampling_timesteps(4, **IMAGE), torch.tensor([1000.0, 750.0, 500.0, 250.0])
    )


def test_discrete_times_are_whole_numbers_below_the_noise_and_are_shifted_like_others():
    fields = {"sample_method": "uniform", "use_discrete_timesteps": True}
    flow = RectifiedFlow(dataclasses.replace(CONFIG, **fields, use_timestep_transform=False))
    seed = torch.Generator().manual_seed
    t = flow.draw_timesteps(200_000, seed(1), **IMAGE)
    assert t.dtype == torch.float32
    assert torch.equal(t.unique(), torch.arange(1000.0))
    assert t.mean().item() == pytest.approx(499.5, abs=3)
    shifting = RectifiedFlow(dataclasses.replace(CONFIG, **fields))
    size = {"height": 144, "width": 256, "latent_frames": 1}
    assert torch.equal(shifting.draw_timesteps(5, seed(1), **size), flow.transform(t[:5], **size))


def test_sampling_stops_at_whole_numbers_where_times_are_discrete():
    fields = {"sample_method": "uniform", "use_discrete_timesteps": True}
    flow = RectifiedFlow(dataclasses.replace(CONFIG, **fields))
    stops = torch.tensor([1000.0, 857.0, 714.0, 571.0, 429.0, 286.0, 143.0])
    assert torch.equal(flow.sampling_timesteps(7, **IMAGE), stops)
    size = {"height": 144, "width": 256, "latent_frames": 1}
    assert torch.equal(flow.sampling_timesteps(7, **size), flow.transform(stops, **size))


def test_sizes_may_come_for_each_video_of_a_batch():
    sizes = {"height": 240, "width": 426, "latent_frames": 15}
    each = {key: torch.full((4,), float(size)) for key, size in sizes.items()}
    for steps in (3, 4):
        torch.testing.assert_close(
            FLOW.sampling_timesteps(steps, **each), FLOW.sampling_timesteps(steps, **sizes)
        )


def test_thirty_steps_stop_where_the_published_sampler_does():
    times = FLOW.sampling_timesteps(
        30,
        height=torch.tensor(240.0).bfloat16(),
        width=torch.tensor(426.0).bfloat16(),
        latent_frames=torch.tensor(15.0).bfloat16(),
    )
    expected = """1000 985.962 971.352 956.134 940.271 923.719 906.433 888.363 869.454 849.648
        828.877 807.07 784.148 760.023 734.597 707.763 679.399 649.372 617.53 583.704 547.703
        509.31 468.278 424.325 377.129 326.316 271.454 212.038 147.479 77.076"""
    expected = torch.tensor([float(t) for t in expected.split()])
    torch.testing.assert_close(times, expected, rtol=1e-5, atol=1e-3)


@pytest.fixture(scope="module")
def published_model(golden):
    config = json.loads((golden / "stdit3_tiny_a.json").read_text())["config"]
    model = STDiT3(STDiT3Config(**config))
    state = load_file(golden / "stdit3_tiny_a.state.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("run", ["plain", "no_transform", "frame_mask"])
def test_sampling_takes_the_published_way_through_the_published_network(
    golden, published_model, run
):
    tensors = load_file(golden / "rflow_sampling.safetensors")
    facts = json.loads((golden / "rflow_sampling.json").read_text())
    case, tolerance = facts["runs"][run], facts["tolerance"]["out"]
    z, y, mask = (tensors[f"{run}.{key}"] for key in ("z", "y", "text_mask"))
    size = {
        "height": case["height"],
        "width": case["width"],
        "latent_frames": reference_latent_frames(int(case["num_frames"])),
    }
    flow = RectifiedFlow(dataclasses.replace(CONFIG, use_timestep_transform=case["transform"]))
    times = flow.sampling_timesteps(case["steps"], **size)
    torch.testing.assert_close(
        times.expand(len(z), -1).T, tensors[f"{run}.timesteps"], rtol=1e-5, atol=0
    )
    seen = []

    def model(z, t, **conditions):
        seen.append((z, t))
        return published_model(z, t, **conditions)

    noise = tensors.get(f"{run}.noise_per_step")
    out = flow.sample(
        model,
        z,
        {
            "y": y,
            "mask": mask,
            "fps": torch.full((len(z),), case["fps"]),
            "height": torch.full((len(z),), case["height"]),
            "width": torch.full((len(z),), case["width"]),
        },
        published_model.null_caption,
        **size,
        steps=case["steps"],
        cfg_scale=case["cfg_scale"],
        frame_mask=tensors.get(f"{run}.frame_mask"),
        noise=None if noise is None else noise[2],  # 0.6 is first reached by the third timestep
    )
    torch.testing.assert_close(out, tensors[f"{run}.out"], **tolerance)
    for (both, t), before, time in zip(
        seen, tensors[f"{run}.z_before_step"], tensors[f"{run}.timesteps"], strict=True
    ):
        torch.testing.assert_close(t, time.repeat(2), rtol=1e-5, atol=0)
        if noise is None:
            torch.testing.assert_close(both, before.repeat(2, 1, 1, 1, 1), **tolerance)


def straight(z, t, *, y, x_mask):
    """Its velocity is the caption's only number."""
    return y.view(-1, 1, 1, 1, 1).expand_as(z)


def test_guidance_leads_away_from_the_null_caption():
    z = torch.zeros(2, 4, 1, 2, 2)
    y = torch.tensor([3.0, 5.0]).view(2, 1, 1, 1)
    null = torch.tensor([[1.0]])
    out = FLOW.sample(straight, z, {"y": y}, null, **IMAGE, steps=7, cfg_scale=2.0)
    # the way is 1 long altogether: 1 + 2 * (3 - 1) and 1 + 2 * (5 - 1)
    expected = torch.tensor([5.0, 9.0]).view(2, 1, 1, 1, 1).expand_as(z)
    torch.testing.assert_close(out, expected)


def test_steps_and_guidance_come_from_the_settings_unless_they_are_given():
    flow = RectifiedFlow(dataclasses.replace(CONFIG, sampling_steps=3, cfg_scale=4.0))
    done = []
    out = flow.sample(
        straight,
        torch.zeros(1, 4, 1, 2, 2),
        {"y": torch.full((1, 1, 1, 1), 2.0)},
        torch.tensor([[1.0]]),
        **IMAGE,
        progress=lambda step, steps: done.append((step, steps)),
    )
    assert done == [(1, 3), (2, 3), (3, 3)]
    torch.testing.assert_close(out, torch.full_like(out, 5.0))


def test_latents_in_bf16_become_fp32():
    z = torch.zeros(1, 4, 2, 2, 2, dtype=torch.bfloat16)
    y = torch.full((1, 1, 1, 1), 2.0)

    def model(z, t, *, y, x_mask):
        return straight(z.float(), t, y=y, x_mask=x_mask)

    for mask in (None, torch.tensor([[0.0, 1.0]])):
        out = FLOW.sample(model, z, {"y": y}, y[0, 0], **IMAGE, steps=2, frame_mask=mask)
        assert out.dtype == torch.float32


def test_kept_frames_stay_and_edited_ones_enter_once_when_their_strength_is_reached():
    start = torch.zeros(1, 4, 3, 1, 1)
    noise = torch.full_like(start, 100.0)
    masks = []

    def model(z, t, *, y, x_mask):
        masks.append(None if x_mask is None else x_mask.tolist())
        return straight(z, t, y=y, x_mask=x_mask)

    y = torch.ones(1, 1, 1, 1)
    flow = RectifiedFlow(dataclasses.replace(CONFIG, use_timestep_transform=False))
    mask = torch.tensor([[0.0, 0.5, 1.0]])
    out = flow.sample(
        model, start, {"y": y}, y[0, 0], **IMAGE, steps=4, frame_mask=mask, noise=noise
    )
    without_edit, with_edit = [[False, False, True]] * 2, [[False, True, True]] * 2
    assert masks == [without_edit, without_edit, with_edit, with_edit]
    # the edited frame is covered half with noise at t = 500 and moves half the way from there
    torch.testing.assert_close(out[0, 0, :, 0, 0], torch.tensor([0.0, 50.5, 1.0]))


def test_a_mask_that_keeps_nothing_costs_no_second_modulation():
    masks = []

    def model(z, t, *, y, x_mask):
        masks.append(x_mask)
        return straight(z, t, y=y, x_mask=x_mask)

    y = torch.ones(1, 1, 1, 1)
    z = torch.zeros(1, 4, 3, 1, 1)
    # sizes at which the shifted first timestep is a little more than 1000
    for height in range(100, 700, 7):
        size = {"height": height, "width": 427, "latent_frames": 3}
        FLOW.sample(model, z, {"y": y}, y[0, 0], **size, steps=2, frame_mask=torch.ones(1, 3))
    assert set(masks) == {None}


def test_an_edit_without_noise_is_refused():
    y = torch.ones(1, 1, 1, 1)
    z = torch.zeros(1, 4, 1, 1, 1)
    with pytest.raises(ValueError, match="needs `noise`"):
        FLOW.sample(straight, z, {"y": y}, y[0, 0], **IMAGE, frame_mask=torch.tensor([[0.5]]))
