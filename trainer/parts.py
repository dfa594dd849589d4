"""A micro batch goes through the model in parts, so that all that a pass keeps fits into memory.

Parts that keep their activations take a quarter fewer operations than a whole that recomputes them,
and a part of some ten thousand tokens fills a GPU just as well.
"""

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.distributed.zero import ZeroOptimizer
from trainer.rectified_flow import RectifiedFlow


class Drawn(NamedTuple):
    """What a micro batch is trained on; `RectifiedFlow.training_loss` says what each is."""

    latents: Tensor  # [B, 4, T, H, W]
    noise: Tensor
    t: Tensor  # [B]
    conditions: dict[str, Tensor]  # of B rows, or of one for all clips
    frame_mask: Tensor | None = None  # [B, T]

    def parts(self, most: int) -> list[list[int]]:
        """The numbers of the clips of as few parts as have at most so many, of nearly equal size.

        Captions of a part are padded to its longest, so those go together that are about as long.
        """
        clips, mask = torch.arange(len(self.latents)), self.conditions.get("mask")
        if mask is not None and len(mask) == len(clips) > most:
            clips = mask.cpu().ne(0).sum(1).argsort(stable=True)
        return [part.tolist() for part in clips.tensor_split(math.ceil(len(clips) / most))]

    def of(self, clips: list[int]) -> "Drawn":
        """These clips alone."""
        count = len(self.latents)

        def rows(value: Tensor) -> Tensor:
            # numbers as an index would have to be on the device, and copying them there waits
            return torch.cat([value[clip : clip + 1] for clip in clips])

        conditions = {
            name: rows(value) if len(value) == count else value
            for name, value in self.conditions.items()
        }
        mask = None if self.frame_mask is None else rows(self.frame_mask)
        return Drawn(rows(self.latents), rows(self.noise), rows(self.t), conditions, mask)


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
    losses: dict[int, Tensor] = {}
    parts = drawn.parts(clips_at_once)
    for clips in parts:
        part = drawn.of(clips)
        with optimizer.phases.of("forward"):
            found = flow.training_loss(model, *part)
            loss = found.mean() * (len(clips) / len(drawn.t) * weight)
        # ranks have different numbers of parts, so they meet after the last one alone
        with nullcontext() if clips is parts[-1] else optimizer.no_sync():
            optimizer.backward(loss)
        losses.update(zip(clips, found.detach(), strict=True))
    return torch.stack([losses[clip] for clip in range(len(drawn.t))])
