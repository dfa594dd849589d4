"""The averaged weights, sharded over ranks exactly like the optimizer's fp32 masters."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Ema:
    """This rank's slices of the averages; begins as a copy of the masters."""

    def __init__(self, masters: Sequence[Tensor], decay: float) -> None:
        self._masters, self._decay = list(masters), decay
        self.shards = [master.detach().clone() for master in masters]

    @torch.no_grad()
    def update(self) -> None:
        """average = decay * average + (1 - decay) * master, for all slices in one call."""
        torch._foreach_lerp_(self.shards, self._masters, 1 - self._decay)
