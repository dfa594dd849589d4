"""Embedders, feed-forward and final layer of the diffusion transformer."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from trainer.model.kernels.available import KERNELS, has_kernels
from trainer.model.kernels.constants import EPS

if KERNELS:
    from trainer.model.kernels.block_functions import (
        AddGated,
        AddGatedThenLinear,
        AddGatedThenModulatedLinear,
        AddThenMlp,
    )

SINUSOID_WIDTH = 256  # channels of an embedded timestep or frame rate


def normalise(x: Tensor) -> Tensor:
    """Layer norm over the last dimension, without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, as adaLN of DiT (Peebles & Xie, arXiv 2212.09748)."""
    return torch.addcmul(shift, x, 1 + scale)


class PendingResidual(NamedTuple):
    """Residual stream between two blocks with a pending gated addend: x + gate * (addend + bias).

    The next block adds it, in one pass with its norm.
    """

    x: Tensor  # [B, T, S, D], as `addend`
    gate: Tensor | None = None  # [B, T or 1, 1, D]
    addend: Tensor | None = None
    bias: Tensor | None = None  # [D]; None: the addend has it

    def add(self) -> Tensor:
        """x + gate * (addend + bias), [B, T, S, D]."""
        if self.addend is None:
            return self.x
        if self.bias is not None:
            return AddGated.apply(*self)
        return torch.addcmul(self.x, self.gate, self.addend)


def add_gated_then_modulated_linear(
    residual: PendingResidual, shift: Tensor, scale: Tensor, layer: nn.Linear
) -> tuple[Tensor, Tensor]:
    """The sum, for whoever adds to it, and the layer's values for its modulated norm.

    The terms are [B, T or 1, 1, D].
    """
    if has_kernels(residual.x):
        return AddGatedThenModulatedLinear.apply(*residual, shift, scale, layer.weight, layer.bias)
    x = residual.add()
    return x, layer(modulate(normalise(x), shift, scale))


def add_gated_then_linear(
    x: Tensor, gate: Tensor, values: Tensor, layer: nn.Linear, then: nn.Linear
) -> tuple[Tensor, Tensor]:
    """x + gate * the layer's values, all [B, T, S, D], and the other layer's values for that.

    The gates are [B, T or 1, 1, D].
    """
    if has_kernels(x):
        weights = layer.weight, layer.bias, then.weight, then.bias
        return AddGatedThenLinear.apply(x, gate, values, *weights)
    x = torch.addcmul(x, gate, layer(values))
    return x, then(x)


def add_then_gated_mlp(
    x: Tensor,
    values: Tensor,
    layer: nn.Linear,
    terms: tuple[Tensor, Tensor, Tensor],
    mlp: "Mlp",
) -> PendingResidual:
    """x + the layer's values, and to be added gate * what the network makes of its modulated norm.

    x, values [B, T, S, D]; the terms are shift, scale and gate, [B, T or 1, 1, D] each.
    """
    shift, scale, gate = terms
    if has_kernels(x):
        weights = mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight
        x, addend = AddThenMlp.apply(x, values, layer.weight, layer.bias, shift, scale, *weights)
        return PendingResidual(x, gate, addend, mlp.fc2.bias)
    x = x + layer(values)
    return PendingResidual(x, gate, mlp(modulate(normalise(x), shift, scale)))


def sinusoid(t: Tensor) -> Tensor:
    """[B] to [B, 256], cosines first, in fp32."""
    half = SINUSOID_WIDTH // 2
    exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    # fp32, as published weights know it, though its last bit may differ between machines
    angles = t[:, None].float() * exponents.exp()
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class ScalarEmbedder(nn.Module):
    """A number of each sample (timestep, frames per second) as a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(SINUSOID_WIDTH, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, t: Tensor) -> Tensor:
        """[B] to [B, D]."""
        return self.mlp(sinusoid(t).to(self.mlp[0].weight.dtype))


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width_in: int, width: int, width_out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width_in, width)
        self.fc2 = nn.Linear(width, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width_in] to [..., width_out]."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class CaptionEmbedder(nn.Module):
    """Caption features in the model's width; the null caption stands in for dropped ones."""

    def __init__(self, caption_channels: int, width: int, max_length: int) -> None:
        super().__init__()
        null = torch.randn(max_length, caption_channels) / caption_channels**0.5
        self.register_buffer("y_embedding", null)
        self.y_proj = Mlp(caption_channels, width, width)

    def forward(self, y: Tensor, tokens: Tensor, drop: Tensor | None = None) -> Tensor:
        """The `tokens` [B, M] of captions [B, 1, L, C] as [B, M, D]; `drop` [B]: read the null one.

        A dropped caption keeps its length: it reads as many tokens of the null caption.
        """
        chosen = y.flatten(0, 2)[tokens]
        if drop is not None:
            null = self.y_embedding[tokens % y.shape[2]].to(y.dtype)
            chosen = torch.where(drop.bool()[:, None, None], null, chosen)
        return self.y_proj(chosen)


class PatchEmbedder(nn.Module):
    """Latent patches become tokens."""

    def __init__(self, patch: tuple[int, int, int], channels: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W], padded with zeros at the ends, to [B, T', S, D]."""
        ends = [(0, -size % patch) for size, patch in zip(x.shape[2:], self.patch, strict=True)]
        x = F.pad(x, [amount for end in reversed(ends) for amount in end])
        patch_t, patch_h, patch_w = self.patch
        patches = rearrange(
            x,
            "b c (t pt) (h ph) (w pw) -> b t (h w) (c pt ph pw)",
            pt=patch_t,
            ph=patch_h,
            pw=patch_w,
        )
        # its stride is its kernel, so the convolution is a product, which is faster
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class PositionEmbedder(nn.Module):
    """Sines and cosines of the row and column, in units of a square of the trained size."""

    inv_freq: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        exponents = torch.arange(0, half, 2).float() / half
        # a buffer, so that a bf16 model has bf16 frequencies: published weights were trained so
        self.register_buffer("inv_freq", 10000.0**-exponents, persistent=False)

    def forward(
        self, rows: int, columns: int, *, scale: float, base_size: int | None = None
    ) -> Tensor:
        """[rows x columns, D] in fp32; the column fills the first half of the channels.

        With a `base_size`, either edge counts as that many places.
        """
        by_row = self._wave(rows, scale, base_size)
        by_column = self._wave(columns, scale, base_size)
        both = (
            by_column.expand(rows, columns, -1),
            by_row[:, None].expand(rows, columns, -1),
        )
        return torch.cat(both, -1).flatten(0, 1)

    def _wave(self, size: int, scale: float, base_size: int | None) -> Tensor:
        places = torch.arange(size, dtype=torch.float32, device=self.inv_freq.device)
        angles = (places / scale * ((base_size or size) / size))[:, None] * self.inv_freq.float()
        return torch.cat((angles.sin(), angles.cos()), -1)


class FinalLayer(nn.Module):
    """Tokens become the values of their patches."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.linear = nn.Linear(width, values)

    def forward(self, x: Tensor, t: Tensor, t0: Tensor | None, x_mask: Tensor | None) -> Tensor:
        """[B, T, S, D] to [B, T, S, values]; t, t0 [B, D] embed the timestep and time 0.

        Where x_mask [B, T] is False, norm and modulation come twice: the weights expect it.
        """
        x = self._modulate(x, t)
        if x_mask is not None and t0 is not None:
            x = torch.where(x_mask[:, :, None, None], x, self._modulate(x, t0))
        return self.linear(x)

    def _modulate(self, x: Tensor, t: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table + t[:, None])[:, :, None, None].unbind(1)
        return modulate(normalise(x), shift, scale)
