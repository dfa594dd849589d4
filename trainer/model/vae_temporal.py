"""The VAE's temporal part: four frames of spatial latents become one, causally."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple, Self

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from trainer.model.kernels.available import KERNELS, has_kernels

if KERNELS:
    from trainer.model.kernels.replay import Replayed
    from trainer.model.kernels.vae import decode_chunks, encode_chunks


@dataclass(frozen=True, kw_only=True)
class TemporalVaeConfig:
    """Widths and depths of the temporal part."""

    channels: int = 4  # of the spatial latents, and of what becomes of them
    filters: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 4)  # of `filters`, by level
    downsample: tuple[bool, ...] = (False, True, True)  # whether time halves after a level
    res_blocks: int = 4  # of each level
    groups: int = 32  # of the group norms

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.filters * multiplier for multiplier in self.multipliers]


class Posterior(NamedTuple):
    """A Gaussian for every latent value: mean and log variance, each [B, C, T, H, W]."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def of(cls, moments: Tensor) -> Self:
        """Of a network's moments [B, 2C, T, H, W]."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30.0, 20.0))

    @property
    def std(self) -> Tensor:
        """Standard deviations [B, C, T, H, W]."""
        return (0.5 * self.logvar).exp()


class CausalConv3d(nn.Module):
    """A convolution over time, height and width that sees no later frame."""

    def __init__(
        self, channels: int, out: int, kernel: int = 3, *, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.frames_before = kernel - stride if kernel > 1 else 0
        self.conv = nn.Conv3d(
            channels,
            out,
            kernel,
            stride=(stride, 1, 1),
            padding=(0, kernel // 2, kernel // 2),
            bias=bias,
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W]; zeros stand for the frames before the first."""
        if self.frames_before:
            x = F.pad(x, (0, 0, 0, 0, self.frames_before, 0))
        return self.conv(x)


class ResBlock(nn.Module):
    """Two normalised convolutions around a shortcut."""

    def __init__(self, channels: int, out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = CausalConv3d(channels, out, bias=False)
        self.norm2 = nn.GroupNorm(groups, out)
        self.conv2 = CausalConv3d(out, out, bias=False)
        if channels != out:
            self.conv3 = CausalConv3d(channels, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, out, T, H, W]."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return hidden + (self.conv3(x) if hasattr(self, "conv3") else x)


def _level(channels: int, out: int, config: TemporalVaeConfig) -> nn.Sequential:
    blocks = [ResBlock(channels, out, config.groups)]
    blocks += [ResBlock(out, out, config.groups) for _ in range(config.res_blocks - 1)]
    return nn.Sequential(*blocks)


class Encoder(nn.Module):
    """Spatial latents to the moments of the posterior."""

    def __init__(self, config: TemporalVaeConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = CausalConv3d(config.channels, widths[0], bias=False)
        self.block_res_blocks = nn.ModuleList(
            _level(before, width, config)
            for before, width in zip([widths[0], *widths], widths, strict=False)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, width, stride=2) if halves else nn.Identity()
            for width, halves in zip(widths, config.downsample, strict=False)
        )
        self.res_blocks = _level(widths[-1], widths[-1], config)
        self.norm1 = nn.GroupNorm(config.groups, widths[-1])
        self.conv2 = CausalConv3d(widths[-1], 2 * config.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, 2C, T / 4, H, W]."""
        x = self.conv_in(x)
        for level, blocks in enumerate(self.block_res_blocks):
            x = blocks(x)
            if level < len(self.conv_blocks):
                x = self.conv_blocks[level](x)
        return self.conv2(F.silu(self.norm1(self.res_blocks(x))))


class Decoder(nn.Module):
    """Latents to spatial latents, the encoder's levels backwards."""

    def __init__(self, config: TemporalVaeConfig) -> None:
        super().__init__()
        widths = config.widths
        self.stretch = [2 if halves else 1 for halves in config.downsample]
        self.conv1 = CausalConv3d(config.channels, widths[-1])
        self.res_blocks = _level(widths[-1], widths[-1], config)
        self.block_res_blocks = nn.ModuleList(
            _level(before, width, config)
            for before, width in zip([*widths[1:], widths[-1]], widths, strict=True)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, 2 * width) if halves else nn.Identity()
            for width, halves in zip(widths[1:], config.downsample, strict=True)
        )
        self.norm1 = nn.GroupNorm(config.groups, widths[0])
        self.conv_out = CausalConv3d(widths[0], config.channels)

    def forward(self, z: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, C, 4 T, H, W]."""
        x = self.res_blocks(self.conv1(z))
        for level in reversed(range(len(self.block_res_blocks))):
            x = self.block_res_blocks[level](x)
            if level:
                x = self.conv_blocks[level - 1](x)
                x = rearrange(x, "b (c ts) t h w -> b c (t ts) h w", ts=self.stretch[level - 1])
        return self.conv_out(F.silu(self.norm1(x)))


class TemporalVae(nn.Module):
    """Encoder and decoder over time; space stays as it is."""

    def __init__(self, config: TemporalVaeConfig) -> None:
        super().__init__()
        self.time_factor = 2 ** sum(config.downsample)
        self.encoder = Encoder(config)
        self.quant_conv = CausalConv3d(2 * config.channels, 2 * config.channels, 1)
        self.post_quant_conv = CausalConv3d(config.channels, config.channels, 1)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> Posterior:
        """The posterior [B, C, ceil(T / 4), H, W] of [B, C, T, H, W]."""
        return Posterior.of(self.moments(x))

    def moments(self, x: Tensor) -> Tensor:
        """Means and log variances [B, 2C, ceil(T / 4), H, W] of spatial latents [B, C, T, H, W]."""
        x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % self.time_factor, 0))
        hidden = (self._fast_encoder if has_kernels(x) else self.encoder)(x)
        return self.quant_conv(hidden)

    def decode(self, z: Tensor, num_frames: int) -> Tensor:
        """Latents of `num_frames` frames to [B, C, num_frames, H, W]."""
        z = self.post_quant_conv(z)
        x = (self._fast_decoder if has_kernels(z) else self.decoder)(z)
        return x[:, :, -num_frames % self.time_factor :]

    @cached_property
    def _fast_encoder(self) -> "Replayed":
        return Replayed(partial(encode_chunks, self.encoder), self.encoder.conv_in.conv.weight)

    @cached_property
    def _fast_decoder(self) -> "Replayed":
        return Replayed(partial(decode_chunks, self.decoder), self.decoder.conv1.conv.weight)
