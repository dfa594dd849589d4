"""A micro batch goes through the model in chunks of clips, so that activations fit into memory.

Chunks that keep their activations take a quarter fewer operations than a whole that recomputes
them, and a chunk of some ten thousand tokens fills a GPU just as well.
"""

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.distributed.zero import ZeroOptimizer
from trainer.rectified_flow import RectifiedFlow


class NoisedBatch(NamedTuple):
    """The arguments of `RectifiedFlow.training_loss` after the model, for B clips."""

    latents: Tensor  # [B, 4, T, H, W]
    noise: Tensor  # [B, 4, T, H, W]
    t: Tensor  # [B]
    conditions: dict[str, Tensor]  # of B rows, or of one for all clips
    frame_mask: Tensor | None = None  # [B, T]

    def chunks(self, most: int) -> list[list[int]]:
        """Split clip indices into the fewest chunks of at most `most`, sizes within one of another.

        Captions of a chunk are padded to its longest, so clips are sorted by caption length first:
        lengths 9, 2, 8, 3, 5 in chunks of at most 2 are [[1, 3], [4, 2], [0]].
        """
        clips, mask = torch.arange(len(self.latents)), self.conditions.get("mask")
        if mask is not None and len(mask) == len(clips) > most:
            clips = mask.cpu().ne(0).sum(1).argsort(stable=True)
        return [chunk.tolist() for chunk in clips.tensor_split(math.ceil(len(clips) / most))]

    def select(self, clips: list[int]) -> "NoisedBatch":
        """These clips alone."""
        count = len(self.latents)

        def rows(value: Tensor) -> Tensor:
            # an index tensor would have to be on the device, and copying it there waits
            return torch.cat([value[clip : clip + 1] for clip in clips])

        conditions = {
            name: rows(value) if len(value) == count else value
            for name, value in self.conditions.items()
        }
        mask = None if self.frame_mask is None else rows(self.frame_mask)
        return NoisedBatch(rows(self.latents), rows(self.noise), rows(self.t), conditions, mask)


def backward_in_chunks(
    flow: RectifiedFlow,
    model: nn.Module,
    optimizer: ZeroOptimizer,
    batch: NoisedBatch,
    *,
    weight: float,
    clips_at_once: int,
) -> Tensor:
    """Add `weight` times the gradients of the mean loss; returns the loss of each clip, [B]."""
    losses: dict[int, Tensor] = {}
    chunks = batch.chunks(clips_at_once)
    for clips in chunks:
        chunk = batch.select(clips)
        with optimizer.phases.of("forward"):
            chunk_losses = flow.training_loss(model, *chunk)
            loss = chunk_losses.mean() * (len(clips) / len(batch.t) * weight)
        # ranks have different numbers of chunks, so they meet after the last one alone
        with nullcontext() if clips is chunks[-1] else optimizer.no_sync():
            optimizer.backward(loss)
        losses.update(zip(clips, chunk_losses.detach(), strict=True))
    return torch.stack([losses[clip] for clip in range(len(batch.t))])
