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
        """average = decay * average + (1 - decay) * master, rounded after either product.

        A linear interpolation is one pass instead of two, and differs in the last bit.
        """
        torch._foreach_mul_(self.shards, self._decay)
        torch._foreach_add_(self.shards, self._masters, alpha=1 - self._decay)
