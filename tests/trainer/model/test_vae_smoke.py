import pytest
import torch

from trainer.config import VaeConfig
from trainer.model.latent_size import latent_size
from trainer.model.vae import build_vae

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:diffusers")


@pytest.mark.parametrize("size", [(1, 16, 24), (18, 24, 17), (33, 16, 16)])
def test_the_smoke_vae_makes_latents_and_videos_of_the_announced_sizes(size):
    config = VaeConfig(arch="smoke", micro_frame_size=17, micro_batch_size=4)
    vae = build_vae(config).eval().requires_grad_(False)
    latents = vae.encode(torch.zeros(1, 3, *size), torch.Generator().manual_seed(0))
    assert latents.shape == (1, 4, *latent_size(size))
    frames, height, width = size
    video = vae.decode(latents, frames)
    assert video.shape == (1, 3, frames, height // 8 * 8, width // 8 * 8)


def test_the_smoke_vae_shows_a_video_in_blocks():
    vae = build_vae(VaeConfig(arch="smoke", micro_frame_size=17, micro_batch_size=4))
    blocks = (torch.rand(1, 3, 5, 2, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 0.9
    by_frame = blocks.repeat_interleave(4, 2)[:, :, 3:]  # 17: the first frame stands alone
    video = by_frame.repeat_interleave(8, 3).repeat_interleave(8, 4)
    with torch.no_grad():
        latents = vae.encode(video, torch.Generator().manual_seed(0))
        torch.testing.assert_close(vae.decode(latents, 17), video, atol=0.01, rtol=0)
    torch.testing.assert_close(latents[:, :3], 2 * blocks, atol=0.01, rtol=0)
