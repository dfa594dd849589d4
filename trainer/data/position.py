"""Position of a run in training: epoch, steps, and the epoch's consumed micro batches."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trainer.manifest import Manifest


@dataclass(frozen=True)
class Position:
    """A position in training; `consumed` has a segment for each number of ranks of this epoch."""

    epoch: int
    step: int  # optimizer steps done in this epoch
    global_step: int  # and since the run began
    consumed: tuple[tuple[int, int], ...]  # (ranks, micro steps), in order; the last is going on
    costs: Mapping[str, float] = field(default_factory=dict)  # of buckets, that order this epoch

    @property
    def finished_segments(self) -> tuple[tuple[int, int], ...]:
        """The epoch's segments that ran on another number of ranks before."""
        return self.consumed[:-1]

    @property
    def micro_step(self) -> int:
        """Micro steps done since the number of ranks last changed, or since the epoch began."""
        return self.consumed[-1][1]

    def after_step(self, micro_steps: int) -> "Position":
        """One optimizer step later, that took so many micro batches a rank."""
        ranks, before = self.consumed[-1]
        consumed = (*self.consumed[:-1], (ranks, before + micro_steps))
        return replace(
            self, step=self.step + 1, global_step=self.global_step + 1, consumed=consumed
        )

    def start_of_epoch(self) -> "Position":
        """The same epoch, with nothing of it consumed."""
        ranks, _ = self.consumed[-1]
        return replace(self, step=0, consumed=((ranks, 0),))

    def next_epoch(self, costs: Mapping[str, float]) -> "Position":
        """The start of the next epoch, in an order by these costs."""
        return replace(self.start_of_epoch(), epoch=self.epoch + 1, costs=costs)


def beginning(world_size: int) -> Position:
    """Before the first step."""
    return Position(0, 0, 0, ((world_size, 0),))


def noted(position: Position, ended: Position | None = None) -> dict[str, Any]:
    """The fields of a manifest that hold a position, as `resumed` reads them.

    `ended` is the last position of the epoch before, whose end gives the checkpoint its name.
    """
    place = {**vars(ended or position), "costs": position.costs}
    return {**place, "epoch_is_over": ended is not None}


def resumed(manifest: Manifest, world_size: int) -> Position:
    """The position of a checkpoint; another number of ranks opens a new segment."""
    found = Position(
        manifest.epoch, manifest.step, manifest.global_step, manifest.consumed, manifest.costs
    )
    if manifest.epoch_is_over:
        found = found.next_epoch(manifest.costs)
    if found.consumed[-1][0] != world_size:
        found = replace(found, consumed=(*found.consumed, (world_size, 0)))
    return found
