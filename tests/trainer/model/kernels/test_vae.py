import pytest
import torch

from trainer.config import VaeConfig
from trainer.model import vae, vae_temporal

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::FutureWarning:diffusers")]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = VaeConfig(arch="OpenSoraVAE_V1_2", micro_frame_size=17, micro_batch_size=4)
    network = vae.build_vae(config).to("cuda").eval().requires_grad_(False)
    for parameter in network.parameters():
        if parameter.ndim == 1:  # norms and biases that are not 1 and 0
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("size", [(1, 72, 104), (20, 64, 96), (34, 40, 72)])
def test_both_ways_equal_the_plain_ones_in_single_precision(network, monkeypatch, size):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    video = torch.rand(1, 3, *size, device="cuda") * 2 - 1
    with monkeypatch.context() as plain:
        for module in (vae, vae_temporal):
            plain.setattr(module, "has_kernels", lambda _: False)
        latents = network.encode(video)
        frames = network.decode(latents, size[0])
    network.channels_last()
    assert (network.encode(video) - latents).norm() / latents.norm() < 1e-3
    assert (network.decode(latents, size[0]) - frames).norm() / frames.norm() < 1e-3
    half = network.bfloat16()
    try:
        assert (half.encode(video.bfloat16()) - latents).norm() / latents.norm() < 0.03
    finally:
        network.float()


def test_a_clips_latents_do_not_depend_on_its_batch(network):
    video = torch.rand(3, 3, 19, 48, 64, device="cuda") * 2 - 1
    together = network.channels_last().encode_each(video, [5, 6, 7])
    assert torch.equal(together[1:2], network.encode_each(video[1:2].clone(), [6]))
