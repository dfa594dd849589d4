"""Group norm followed by SiLU, as one pass where a GPU holds channels last."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.kernels.available import KERNELS, has_kernels

if KERNELS:
    from trainer.model.kernels.norms import norm_and_silu

_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by number of dimensions


class NormAndSilu(nn.GroupNorm):
    """Group norm and SiLU, with the names of a group norm."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, *size] to the same."""
        if has_kernels(x) and not torch.is_grad_enabled():
            x = x.contiguous(memory_format=_LAST[x.ndim])
            return norm_and_silu(x, self.num_groups, self.weight, self.bias, self.eps)
        return F.silu(super().forward(x))
