"""Ledger of training: the micro batches of each step, by rank, as each rank has trained on them."""

from typing import Any

import torch.distributed as dist

from trainer.atomic_files import append_jsonl
from trainer.data.position import Position
from trainer.distributed.parallel import Ranks
from trainer.metrics.sinks import best_effort
from trainer.run_dir import AttemptDir
from trainer.step import StepResult


class Ledger:
    """Collects the steps of every rank; rank 0 writes one line a step to `trained.jsonl`.

    It is written with each checkpoint: steps beyond the last one are trained again, and then the
    next attempt's ledger has them. A micro batch's number is the key of its clips in its epoch,
    whatever the number of ranks.
    """

    def __init__(self, attempt: AttemptDir, ranks: Ranks) -> None:
        self._attempt, self._ranks = attempt, ranks
        self._steps: list[tuple[int, int, list[int]]] = []  # step, epoch, micro batches
        self._rows: list[dict[str, Any]] = []  # to write, also after a full disk

    def step(self, result: StepResult, position: Position) -> None:
        """Take in one step of this rank."""
        indexes = [one.index for one in result.micro]
        self._steps.append((position.global_step, position.epoch, indexes))

    def save(self) -> None:
        """Write the steps since the last call; all ranks must come here."""
        gathered: list[Any] | None = (
            [None] * self._ranks.world_size if self._ranks.is_first else None
        )
        dist.gather_object([indexes for _, _, indexes in self._steps], gathered)
        steps, self._steps = self._steps, []
        if gathered is None:
            return
        self._rows += [
            {"global_step": step, "epoch": epoch, "micro_batches": [rank[i] for rank in gathered]}
            for i, (step, epoch, _) in enumerate(steps)
        ]
        with best_effort("what was trained on"):
            append_jsonl(self._attempt.trained, self._rows)
            self._rows = []
