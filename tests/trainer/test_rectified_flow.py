import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from trainer.config import load_stage
from trainer.rectified_flow import GivenFrames, RectifiedFlow, reference_latent_frames

CONFIG = load_stage("stage1").config.flow
FLOW = RectifiedFlow(CONFIG)


def formula(z, t, **_):
    velocity = 0.5 * z + 0.3 * (t / 1000).view(-1, 1, 1, 1, 1) + 0.1 * torch.sin(z)
    return torch.cat([velocity, 7 + 0 * velocity], 1)


@pytest.mark.parametrize("case", ["plain", "masked"])
def test_noised_latents_and_loss_of_each_clip_are_the_published_ones(golden, case):
    tensors = load_file(golden / "rflow.safetensors")
    start, noise, t = (tensors[f"{case}.{key}"] for key in ("x_start", "noise", "t"))
    mask = tensors[f"{case}.mask"].bool() if case == "masked" else None
    seen = []

    def model(z, t, x_mask):
        assert x_mask is mask
        seen.append(z)
        return formula(z, t)

    loss = FLOW.training_loss(model, start, noise, t, {}, mask)
    torch.testing.assert_close(seen[0], tensors[f"{case}.x_t_seen_by_model"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, tensors[f"{case}.loss_per_sample"], rtol=1e-5, atol=1e-6)
    noised = FLOW.add_noise(start, noise, t)
    torch.testing.assert_close(noised, tensors[f"{case}.add_noise"], rtol=1e-5, atol=1e-6)


def test_times_are_shifted_as_published(golden):
    tensors = load_file(golden / "rflow.safetensors")
    t = tensors["timestep_transform.t"]
    rows = tensors["timestep_transform.height_width_frames_scale"].tolist()
    for (height, width, frames, scale), expected in zip(
        rows, tensors["timestep_transform.out"], strict=True
    ):
        flow = RectifiedFlow(dataclasses.replace(CONFIG, transform_scale=scale))
        latent_frames = reference_latent_frames(int(frames))
        shifted = flow.transform(t, height=height, width=width, latent_frames=latent_frames)
        torch.testing.assert_close(shifted, expected, rtol=1e-5, atol=1e-4)


def test_drawn_times_have_the_published_distribution(golden):
    for case in json.loads((golden / "rflow.json").read_text())["sampled_t"]:
        config = dataclasses.replace(
            CONFIG,
            sample_method=case["sample_method"],
            use_timestep_transform=case["use_timestep_transform"],
        )
        t = RectifiedFlow(config).draw_timesteps(
            case["n"],
            torch.Generator().manual_seed(1),
            height=case["height"],
            width=case["width"],
            latent_frames=reference_latent_frames(case["num_frames"]),
        )
        assert float(t.mean()) == pytest.approx(case["mean"], abs=1.0)
        assert float(t.std()) == pytest.approx(case["std"], abs=1.0)
        for quantile, value in case["quantiles"].items():
            drawn = float(t.kthvalue(int(float(quantile) * len(t))).values)
            assert drawn == pytest.approx(value, rel=0.2 if quantile == "0.001" else 0.05)


def test_short_videos_keep_their_noise():
    t = FLOW.transform(torch.tensor([500.0]), height=144, width=256, latent_frames=2)
    assert 300 < float(t) < 500


@pytest.mark.parametrize("run", ["plain", "no_transform", "frame_mask"])
def test_sampling_takes_the_published_way_through_the_published_network(golden, run):
    from trainer.model.stdit3 import STDiT3, STDiT3Config

    tensors = load_file(golden / "rflow_sampling.safetensors")
    facts = json.loads((golden / "rflow_sampling.json").read_text())
    case, tolerance = facts["runs"][run], facts["tolerance"]["out"]
    network = json.loads((golden / "stdit3_tiny_a.json").read_text())["config"]
    model = STDiT3(STDiT3Config(**{**network, "patch_size": tuple(network["patch_size"])})).eval()
    state = load_file(golden / "stdit3_tiny_a.state.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    config = dataclasses.replace(
        CONFIG, use_timestep_transform=case["transform"], cfg_scale=case["cfg_scale"]
    )
    flow = RectifiedFlow(config)
    z, y, mask = (tensors[f"{run}.{key}"] for key in ("z", "y", "text_mask"))
    timesteps = flow.sampling_timesteps(
        case["steps"],
        height=case["height"],
        width=case["width"],
        latent_frames=reference_latent_frames(int(case["num_frames"])),
    )
    given = None
    if case.get("frame_mask"):
        noise = iter(tensors[f"{run}.noise_per_step"])
        given = GivenFrames(torch.tensor(case["frame_mask"]), lambda: next(noise))
    conditions = {
        "y": y,
        "mask": mask,
        "fps": torch.full((len(z),), case["fps"]),
        "height": torch.full((len(z),), case["height"]),
        "width": torch.full((len(z),), case["width"]),
    }
    null_y = model.null_caption.expand(len(z), 1, -1, -1)
    out = flow.sample(model, z, conditions, null_y, timesteps=timesteps, given=given)
    expected = tensors[f"{run}.timesteps"][:, 0]
    torch.testing.assert_close(torch.tensor(timesteps), expected, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(out, tensors[f"{run}.out"], **tolerance)
