"""OpenSoraVAE_V1_2: videos to latents and back, frame by frame and then over time."""

import sys
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from trainer.config import VaeConfig
from trainer.model import vae_smoke
from trainer.model.kernels.available import KERNELS, has_kernels
from trainer.model.latent_size import MICRO_FRAMES, latent_frames
from trainer.model.pretrained import load_weights
from trainer.model.vae_temporal import Posterior, TemporalVae, TemporalVaeConfig
from trainer.quiet_imports import quiet_imports

if KERNELS:
    from trainer.model.kernels.replay import Replayed
    from trainer.model.kernels.vae import decode_frames, encode_frames

_SHIFT = (-0.10, 0.34, 0.27, 0.98)
_SCALE = (3.85, 2.32, 2.33, 3.06)
_SPATIAL_SCALE = 0.18215  # not the 0.13025 of its published configuration; the temporal part's is

_PIXELS = 360 * 640

VAE_SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "OpenSoraVAE_V1_2": {
        "spatial": {
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "norm_num_groups": 32,
        },
        "temporal": {},
    },
    "smoke": vae_smoke.SIZE,
}


class Noise(NamedTuple):
    """Standard normal values with which latents are drawn from both posteriors."""

    spatial: Tensor  # [B x T, 4, h, w]
    temporal: Tensor  # [B, 4, t, h, w]


class SpatialVae(nn.Module):
    """diffusers' AutoencoderKL on frames [N, 3, H, W], a few at a time."""

    def __init__(self, config: dict[str, Any], micro_batch_size: int | None) -> None:
        super().__init__()
        with quiet_imports():
            from diffusers import AutoencoderKL

        self.micro_batch_size = micro_batch_size
        self.module = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            **config,
        )

    def encode(self, frames: Tensor, noise: Tensor | None) -> Tensor:
        """Frames [N, 3, H, W] to latents [N, 4, H / 8, W / 8]; without noise the most likely."""
        groups = self._groups(frames, *frames.shape[2:])
        moments = torch.cat([self.module.quant_conv(self._encode(group)) for group in groups])
        posterior = Posterior.of(moments)
        latents = posterior.mean
        if noise is not None:
            latents = latents + posterior.std * noise
        return latents * _SPATIAL_SCALE

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [N, 4, h, w] to frames [N, 3, 8 h, 8 w]."""
        height, width = latents.shape[2:]
        groups = self._groups(latents / _SPATIAL_SCALE, 8 * height, 8 * width)
        return torch.cat([self._decode(self.module.post_quant_conv(group)) for group in groups])

    def _encode(self, frames: Tensor) -> Tensor:
        return (self._fast_encoder if has_kernels(frames) else self.module.encoder)(frames)

    def _decode(self, latents: Tensor) -> Tensor:
        return (self._fast_decoder if has_kernels(latents) else self.module.decoder)(latents)

    @cached_property
    def _fast_encoder(self) -> "Replayed":
        encoder = self.module.encoder
        return Replayed(partial(encode_frames, encoder), encoder.conv_in.weight)

    @cached_property
    def _fast_decoder(self) -> "Replayed":
        decoder = self.module.decoder
        return Replayed(partial(decode_frames, decoder), decoder.conv_in.weight)

    def _groups(self, x: Tensor, height: int, width: int) -> Sequence[Tensor]:
        """As few groups as memory allows; of equal sizes on GPUs, where each size is a graph."""
        at_once = self.at_once(height, width)
        return x.tensor_split(-(-len(x) // at_once)) if has_kernels(x) else x.split(at_once)

    def at_once(self, height: int, width: int) -> int:
        """The number of frames with as many pixels as `micro_batch_size` frames of 360p."""
        if self.micro_batch_size is None:
            return sys.maxsize
        return max(1, self.micro_batch_size * _PIXELS // (height * width))


class VideoVAE(nn.Module):
    """Video [B, 3, T, H, W] to latents [B, 4, t, h, w] and back; chunks of time are independent."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        spatial: dict[str, Any],
        temporal: TemporalVaeConfig,
        *,
        micro_frame_size: int | None = MICRO_FRAMES,  # None: all frames at once
        micro_batch_size: int | None = 4,  # None: likewise
    ) -> None:
        super().__init__()
        self.micro_frame_size = micro_frame_size
        self.register_buffer("scale", torch.tensor(_SCALE)[None, :, None, None, None])
        self.register_buffer("shift", torch.tensor(_SHIFT)[None, :, None, None, None])
        self.spatial_vae = SpatialVae(spatial, micro_batch_size)
        self.temporal_vae = TemporalVae(temporal)

    def channels_last(self) -> Self:
        """With weights as a GPU's convolutions want them; what passes through follows."""
        self.spatial_vae.to(memory_format=torch.channels_last)
        self.temporal_vae.to(memory_format=torch.channels_last_3d)
        return self

    def encode(
        self, video: Tensor, draws: torch.Generator | None = None, *, noise: Noise | None = None
    ) -> Tensor:
        """Normalised latents [B, 4, t, h, w] of a video [B, 3, T, H, W] in [-1, 1].

        They are drawn from the posteriors with `noise`, or with what `draws` gives; with neither
        they are the means.
        """
        if noise is None and draws is not None:
            noise = self._draw(video.shape, draws)
        spatial_noise, temporal_noise = (
            (part.to(video) for part in noise) if noise else (None, None)
        )
        frames = rearrange(video, "b c t h w -> (b t) c h w")
        by_frame = self.spatial_vae.encode(frames, spatial_noise)
        x = rearrange(by_frame, "(b t) c h w -> b c t h w", b=len(video))
        posterior = Posterior.of(self._temporal_moments(x))
        latents = posterior.mean
        if temporal_noise is not None:
            latents = latents + posterior.std * temporal_noise
        return (latents - self.shift) / self.scale

    def encode_each(self, video: Tensor, seeds: Sequence[int]) -> Tensor:
        """Latents [B, 4, t, h, w] of clips [B, 3, T, H, W], each drawn with its own seed.

        Clip by clip, so that not one bit depends on what a clip is batched with.
        """
        drawn = [torch.Generator(video.device).manual_seed(seed) for seed in seeds]
        return torch.cat([self.encode(*pair) for pair in zip(video.split(1), drawn, strict=True)])

    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """A video [B, 3, num_frames, H, W] of its latents [B, 4, t, h, w]."""
        z = latents * self.scale + self.shift
        at_once = self.micro_frame_size or num_frames
        whole, rest = divmod(num_frames, at_once)
        size = latent_frames(at_once, at_once)
        parts = [
            self._apart(self.temporal_vae.decode(group, at_once), len(z))
            for group in self._together(z[:, :, : whole * size], size)
        ]
        if rest:
            parts.append(self.temporal_vae.decode(z[:, :, whole * size :], rest))
        frames = rearrange(torch.cat(parts, dim=2), "b c t h w -> (b t) c h w")
        return rearrange(self.spatial_vae.decode(frames), "(b t) c h w -> b c t h w", b=len(z))

    def _temporal_moments(self, x: Tensor) -> Tensor:
        size = self.micro_frame_size or x.shape[2]
        end = x.shape[2] // size * size
        parts = [
            self._apart(self.temporal_vae.moments(group), len(x))
            for group in self._together(x[:, :, :end], size)
        ]
        if end < x.shape[2]:
            parts.append(self.temporal_vae.moments(x[:, :, end:]))
        return torch.cat(parts, dim=2)

    def _together(self, x: Tensor, size: int) -> Iterator[Tensor]:
        """Whole chunks of [B, C, n size, h, w] as samples [B n, C, size, h, w], a few at a time."""
        chunks, (height, width) = x.shape[2] // size, x.shape[3:]
        if not chunks:
            return
        if not has_kernels(x):  # a batch gains nothing on CPUs and would change the last bits
            yield from x.split(size, dim=2)
            return
        at_once = min(chunks, self.spatial_vae.at_once(8 * height, 8 * width))
        for group in x.split(at_once * size, dim=2):
            yield rearrange(group, "b c (n t) h w -> (b n) c t h w", t=size)

    @staticmethod
    def _apart(x: Tensor, batch: int) -> Tensor:
        return rearrange(x, "(b n) c t h w -> b c (n t) h w", b=batch)

    def _draw(self, shape: torch.Size, draws: torch.Generator) -> Noise:
        """All noise of a video at once, so that the size of a group or chunk changes none of it."""
        batch, _, frames, height, width = shape
        h, w = height // 8, width // 8
        t = latent_frames(frames, self.micro_frame_size)
        return Noise(
            torch.randn((batch * frames, 4, h, w), generator=draws, device=draws.device),
            torch.randn((batch, 4, t, h, w), generator=draws, device=draws.device),
        )


def build_vae(config: VaeConfig, *, read: bool = True) -> VideoVAE:
    """The VAE of a run with its weights, or with random ones; the smoke VAE brings its own.

    Without `read` its file is left alone.
    """
    size = VAE_SIZES[config.arch]
    vae = VideoVAE(
        size["spatial"],
        TemporalVaeConfig(**size["temporal"]),
        micro_frame_size=config.micro_frame_size,
        micro_batch_size=config.micro_batch_size,
    )
    if config.weights is not None:
        if read:
            load_weights(vae, config.weights)
    elif config.arch == "smoke":
        vae_smoke.set_weights(vae, _SPATIAL_SCALE)
    return vae
