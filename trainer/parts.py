"""A micro batch goes through the model in parts, so that all that a pass keeps fits into memory.

Parts that keep their activations take a quarter fewer operations than a whole that recomputes them,
and a part of some ten thousand tokens fills a GPU just as well.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.rectified_flow import RectifiedFlow
from trainer.zero import ZeroOptimizer


class Drawn(NamedTuple):
    """What a micro batch is trained on; `RectifiedFlow.training_loss` says what each is."""

    latents: Tensor  # [B, 4, T, H, W]
    noise: Tensor
    t: Tensor  # [B]
    conditions: dict[str, Tensor]  # of B rows, or of one for all clips
    frame_mask: Tensor | None = None  # [B, T]

    def parts(self, most: int) -> Iterator["Drawn"]:
        """As few as have at most so many clips each, of nearly equal size."""
        clips = len(self.latents)
        for at in torch.arange(clips).tensor_split(math.ceil(clips / most)):
            yield self._of(slice(int(at[0]), int(at[-1]) + 1))

    def _of(self, clips: slice) -> "Drawn":
        count = len(self.latents)
        conditions = {
            name: value[clips] if len(value) == count else value
            for name, value in self.conditions.items()
        }
        mask = None if self.frame_mask is None else self.frame_mask[clips]
        return Drawn(self.latents[clips], self.noise[clips], self.t[clips], conditions, mask)


def learn(
    flow: RectifiedFlow,
    model: nn.Module,
    optimizer: ZeroOptimizer,
    drawn: Drawn,
    *,
    weight: float,
    clips_at_once: int,
) -> Tensor:
    """Add `weight` times the gradients of the clips' mean loss; the loss of each clip, [B]."""
    losses = []
    *parts, last = drawn.parts(clips_at_once)
    for part in (*parts, last):
        with optimizer.phases.of("forward"):
            found = flow.training_loss(model, *part)
            loss = found.mean() * (len(part.t) / len(drawn.t) * weight)
        # ranks have different numbers of parts, so they meet after the last one alone
        with nullcontext() if part is last else optimizer.no_sync():
            optimizer.backward(loss)
        losses.append(found.detach())
    return torch.cat(losses)
