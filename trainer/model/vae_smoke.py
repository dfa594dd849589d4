"""Weights by hand for the smoke VAE: latents are the mean colours of blocks, so videos show them.

Random weights would make latents that are mostly noise and videos in which nothing can be seen.
Each colour travels as a pair (v, -v), since silu(v) - silu(-v) = v. A pair (K, -K) beside them is
so large that a group norm's scale is the same for every video. Every residual branch is zero. Of
four frames the temporal part keeps the last, and shows it four times.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from trainer.model.vae import VideoVAE

SIZE = {
    "spatial": {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 1},
    "temporal": {"filters": 8, "multipliers": (1, 1, 1, 1), "res_blocks": 1, "groups": 1},
}

_COLOURS = 3
_LARGE = 32.0  # K
_CONTRAST = 2.0  # of latents to colours in [-1, 1]: about the variance that noise has
_SURE = -30.0  # log variance of the posteriors, the least that they know


@torch.no_grad()
def set_weights(vae: "VideoVAE", spatial_scale: float) -> None:
    """Fill a VAE of `SIZE`."""
    for parameter in vae.parameters():
        parameter.zero_()
    spatial, temporal = vae.spatial_vae.module, vae.temporal_vae
    _spread(spatial.encoder.conv_in)
    for block in spatial.encoder.down_blocks[:-1]:
        for channel in range(8):
            block.downsamplers[0].conv.weight[channel, channel, :2, :2] = 1 / 4
    _gather(spatial.encoder.conv_norm_out, spatial.encoder.conv_out)
    _keep(spatial.quant_conv)
    _keep(spatial.post_quant_conv)
    _spread(spatial.decoder.conv_in)
    for block in spatial.decoder.up_blocks[:-1]:
        _keep(block.upsamplers[0].conv)
    _gather(spatial.decoder.conv_norm_out, spatial.decoder.conv_out)

    _spread(temporal.encoder.conv_in.conv, 1 / spatial_scale)
    for causal in temporal.encoder.conv_blocks[1:]:
        _keep(causal.conv)
    _gather(temporal.encoder.norm1, temporal.encoder.conv2.conv)
    scale, shift = vae.scale.flatten() * _CONTRAST, vae.shift.flatten()
    shown = (torch.arange(4) < _COLOURS).float()
    _affine(temporal.quant_conv.conv, shown * scale, shift)
    _affine(temporal.post_quant_conv.conv, shown / scale, -shown * shift / scale)
    _spread(temporal.decoder.conv1.conv)
    for causal in temporal.decoder.conv_blocks[1:]:
        _keep(causal.conv)
    _gather(temporal.decoder.norm1, temporal.decoder.conv_out.conv, spatial_scale)


def _here(conv: nn.Module) -> Tensor:
    """Of a convolution's weights [out, in] those for the same place, and the newest frame."""
    weight: Tensor = conv.weight
    middle = weight[..., weight.shape[-2] // 2, weight.shape[-1] // 2]
    return middle if middle.ndim == 2 else middle[..., -1]


def _spread(conv: nn.Module, scale: float = 1.0) -> None:
    """Colours become pairs; the large pair is made, or without a bias comes with the colours."""
    weight, channels = _here(conv), _COLOURS if conv.bias is not None else 4
    for channel in range(channels):
        weight[2 * channel, channel], weight[2 * channel + 1, channel] = scale, -scale
    if conv.bias is not None:
        conv.bias[-2:] = torch.tensor([_LARGE, -_LARGE])


def _keep(conv: nn.Module) -> None:
    """Every channel as it is, or several times in a row."""
    weight = _here(conv)
    times = len(weight) // weight.shape[1]
    weight.copy_(torch.eye(weight.shape[1]).repeat_interleave(times, 0))


def _gather(norm: nn.Module, conv: nn.Module, scale: float = 1.0) -> None:
    """Pairs become colours, with a log variance where there is room for one."""
    norm.weight.fill_(_LARGE / 2)  # what it divides by
    weight = _here(conv)
    for channel in range(min(4, len(weight))):
        weight[channel, 2 * channel], weight[channel, 2 * channel + 1] = scale, -scale
    conv.bias[4:] = _SURE


def _affine(conv: nn.Module, scale: Tensor, shift: Tensor) -> None:
    """The first channels times `scale` plus `shift`; the others as they are."""
    _keep(conv)
    _here(conv)[: len(scale), : len(scale)] = torch.diag(scale)
    conv.bias[: len(shift)] = shift
