"""How far a run has come: epoch, steps, and which micro batches of the epoch are consumed."""

from dataclasses import dataclass, replace

from trainer.run_dir import Manifest


@dataclass(frozen=True)
class Progress:
    """A position in training; `consumed` has a segment for each number of ranks of this epoch."""

    epoch: int
    global_step: int
    consumed: tuple[tuple[int, int], ...]  # (ranks, steps), in order; the last is going on

    @property
    def step(self) -> int:
        """Steps done in this epoch."""
        return sum(steps for _, steps in self.consumed)

    @property
    def finished_segments(self) -> tuple[tuple[int, int], ...]:
        """The epoch's segments that ran on another number of ranks before."""
        return self.consumed[:-1]

    @property
    def step_of_segment(self) -> int:
        """Steps done since the number of ranks last changed, or since the epoch began."""
        return self.consumed[-1][1]

    def after_step(self) -> "Progress":
        """One optimizer step later."""
        ranks, steps = self.consumed[-1]
        consumed = (*self.consumed[:-1], (ranks, steps + 1))
        return replace(self, global_step=self.global_step + 1, consumed=consumed)

    def start_of_epoch(self) -> "Progress":
        """The same epoch, with nothing of it consumed."""
        ranks, _ = self.consumed[-1]
        return replace(self, consumed=((ranks, 0),))

    def next_epoch(self) -> "Progress":
        """The start of the next epoch."""
        return replace(self.start_of_epoch(), epoch=self.epoch + 1)


def beginning(world_size: int) -> Progress:
    """Before the first step."""
    return Progress(0, 0, ((world_size, 0),))


def resumed(manifest: Manifest, world_size: int) -> Progress:
    """Where a checkpoint was written; another number of ranks opens a new segment."""
    consumed = manifest.consumed
    if consumed[-1][0] != world_size:
        consumed = (*consumed, (world_size, 0))
    return Progress(manifest.epoch, manifest.global_step, consumed)
