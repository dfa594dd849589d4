import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.config import VaeConfig, load_stage
from trainer.model.pretrained import WeightsError
from trainer.model.vae import VAE_SIZES, Noise, VideoVAE, build_vae
from trainer.model.vae_temporal import TemporalVaeConfig

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:diffusers")

SPATIAL_FIELDS = ("block_out_channels", "layers_per_block", "norm_num_groups")


def facts_of(golden, name):
    return json.loads((golden / f"{name}.json").read_text())


def state_of(golden, name):
    state = load_file(golden / f"{name}.state.safetensors")
    return {key: tensor.float() for key, tensor in state.items()}


def temporal_config(fields):
    return TemporalVaeConfig(
        channels=fields["in_out_channels"],
        filters=fields["filters"],
        multipliers=tuple(fields["channel_multipliers"]),
        downsample=tuple(fields["temporal_downsample"]),
        res_blocks=fields["num_res_blocks"],
        groups=fields["num_groups"],
    )


@pytest.fixture(scope="module")
def pipeline(golden):
    facts = facts_of(golden, "vae_pipeline_a")
    spatial = {name: facts["spatial_config"][name] for name in SPATIAL_FIELDS}
    vae = VideoVAE(spatial, temporal_config(facts["temporal_config"])).eval()
    vae.load_state_dict(state_of(golden, "vae_pipeline_a"))
    return vae.requires_grad_(False)


@pytest.mark.parametrize("case", ["t17", "t34", "t1_b2"])
def test_the_whole_vae_equals_the_references(golden, pipeline, case):
    facts = facts_of(golden, "vae_pipeline_a")
    cases = load_file(golden / "vae_pipeline_a.cases.safetensors")
    x = cases[f"{case}.x"]
    noise = Noise(cases[f"{case}.noise.spatial"], cases[f"{case}.noise.temporal"])
    frames = x.transpose(1, 2).flatten(0, 1)
    found = {
        "spatial_latent_zero_noise": pipeline.spatial_vae.encode(frames, None)
        .unflatten(0, (x.shape[0], -1))
        .transpose(1, 2),
        "z_zero_noise": pipeline.encode(x),
        "z_with_noise": pipeline.encode(x, noise=noise),
        "decoded": pipeline.decode(cases[f"{case}.z_in"], facts["cases"][case]["num_frames"]),
    }
    expected = {name: cases[f"{case}.{name}"] for name in found}
    torch.testing.assert_close(found, expected, **facts["tolerance"])


def test_the_full_size_has_the_published_names_and_shapes(golden):
    facts = facts_of(golden, "model_state_names")["models"]["OpenSoraVAE_V1_2"]
    size = VAE_SIZES["OpenSoraVAE_V1_2"]
    with torch.device("meta"):
        vae = VideoVAE(size["spatial"], TemporalVaeConfig(**size["temporal"]))
    expected = {name: shape for name, (shape, _, _) in facts["state"].items()}
    assert {name: list(tensor.shape) for name, tensor in vae.state_dict().items()} == expected
    assert sum(p.numel() for p in vae.parameters()) == facts["totals"]["all"]["params"]


def test_drawn_latents_depend_on_the_generator_alone(pipeline):
    video = torch.randn(2, 3, 19, 16, 16)
    latents = pipeline.encode(video, torch.Generator().manual_seed(5))
    pipeline.spatial_vae.micro_batch_size = 3
    again = pipeline.encode(video, torch.Generator().manual_seed(5))
    pipeline.spatial_vae.micro_batch_size = 4
    other = pipeline.encode(video, torch.Generator().manual_seed(6))
    torch.testing.assert_close(latents, again)
    assert not torch.allclose(latents, other, atol=1e-3)


@pytest.mark.parametrize("micro_frame_size", [8, 17, 20, 32])
def test_each_group_of_frames_is_coded_on_its_own_whatever_its_size(micro_frame_size):
    config = VaeConfig(arch="smoke", micro_frame_size=micro_frame_size, micro_batch_size=4)
    vae = build_vae(config).eval().requires_grad_(False)
    frames = 2 * micro_frame_size + 3
    video = torch.rand(1, 3, frames, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = vae.encode(video)
    groups = [vae.encode(group) for group in video.split(micro_frame_size, dim=2)]
    torch.testing.assert_close(latents, torch.cat(groups, dim=2))
    counts = (micro_frame_size, micro_frame_size, 3)
    decoded = [vae.decode(*pair) for pair in zip(groups, counts, strict=True)]
    torch.testing.assert_close(vae.decode(latents, frames), torch.cat(decoded, dim=2))


def test_a_clips_latents_do_not_depend_on_its_batch():
    torch.manual_seed(0)
    vae = build_vae(VaeConfig(arch="smoke", micro_frame_size=17, micro_batch_size=4))
    video = torch.rand(3, 3, 19, 48, 64) * 2 - 1
    with torch.no_grad():
        together = vae.encode_each(video, [5, 6, 7])
        alone = vae.encode_each(video[1:2].clone(), [6])
        again = vae.encode_each(video[1:2], [8])
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(alone, again)


def test_a_vae_of_which_a_tensor_is_missing_is_refused(tmp_path):
    config = load_stage("smoke").config.vae
    tensors = build_vae(config).state_dict()
    del tensors["temporal_vae.encoder.conv_in.conv.weight"]
    save_file(tensors, tmp_path / "vae.safetensors")
    with pytest.raises(WeightsError, match=r"1 missing \(temporal_vae.encoder.conv_in.conv.weight"):
        build_vae(replace(config, weights=str(tmp_path / "vae.safetensors")))


def test_a_video_may_go_through_the_vae_at_once(golden, pipeline):
    facts = facts_of(golden, "vae_pipeline_a")
    spatial = {name: facts["spatial_config"][name] for name in SPATIAL_FIELDS}
    temporal = temporal_config(facts["temporal_config"])
    whole = VideoVAE(spatial, temporal, micro_frame_size=None, micro_batch_size=None).eval()
    whole.load_state_dict(pipeline.state_dict())
    video = torch.rand(1, 3, 9, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = whole.encode(video)
        assert latents.shape == (1, 4, 3, 2, 3)
        torch.testing.assert_close(latents, pipeline.encode(video))  # a single chunk there too
        torch.testing.assert_close(whole.decode(latents, 9), pipeline.decode(latents, 9))
        assert whole.encode(video.repeat(1, 1, 3, 1, 1)).shape == (1, 4, 7, 2, 3)


def test_building_the_vae_prints_nothing():
    code = (
        "from trainer.model.vae import VAE_SIZES, VideoVAE\n"
        "from trainer.model.vae_temporal import TemporalVaeConfig\n"
        "size = VAE_SIZES['smoke']\n"
        "VideoVAE(size['spatial'], TemporalVaeConfig(**size['temporal']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@torch.no_grad()
def test_on_a_cpu_chunks_of_time_have_the_bits_of_each_alone():
    vae = build_vae(load_stage("smoke").config.vae)
    x = torch.randn(1, 4, 34, 18, 32, generator=torch.Generator().manual_seed(1))
    alone = [vae.temporal_vae.moments(chunk) for chunk in x.split(17, dim=2)]
    assert torch.equal(vae._temporal_moments(x), torch.cat(alone, dim=2))
