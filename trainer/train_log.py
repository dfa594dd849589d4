"""What a run says of its steps: averages over ranks and steps, speed, heartbeat."""

import logging
import time

import torch
import torch.distributed as dist

from trainer.config import TrainConfig
from trainer.data.loader import Batch
from trainer.metrics import best_effort, open_sinks
from trainer.parallel import Ranks
from trainer.progress import Progress
from trainer.run_dir import AttemptDir, RunDir, append_jsonl
from trainer.settings import dump
from trainer.step import StepResult

log = logging.getLogger("trainer")


class TrainLog:
    """Collects every step on every rank; rank 0 writes every `log.every_steps` steps."""

    def __init__(
        self,
        run: RunDir,
        attempt: AttemptDir,
        settings: TrainConfig,
        ranks: Ranks,
        *,
        global_step: int,
    ) -> None:
        self._run, self._attempt, self._ranks = run, attempt, ranks
        self._every = settings.log.every_steps
        self._sinks = (
            open_sinks(run, settings.log, dump(settings), global_step=global_step)
            if ranks.is_first
            else []
        )
        self._losses: list[torch.Tensor] = []
        self._clips = 0
        self._skipped = 0
        self._since = time.monotonic()

    def step(self, result: StepResult, batch: Batch, progress: Progress, total_steps: int) -> None:
        """Take in one step; on a step to be logged all ranks meet."""
        self._losses.append(result.loss)
        self._clips += result.clips
        self._note_skipped(batch)
        if self._ranks.is_first:
            with best_effort("the heartbeat"):
                self._run.beat(progress.global_step, total_steps)
        if progress.global_step % self._every == 0:
            self._write(result, progress)

    def close(self) -> None:
        """Finish the sinks."""
        for sink in self._sinks:
            sink.close()

    def _write(self, result: StepResult, progress: Progress) -> None:
        losses = torch.stack(self._losses)
        counts = torch.tensor([self._clips, self._skipped], device=losses.device)
        sums = torch.cat([losses.sum()[None], losses[-1:], counts])
        dist.all_reduce(sums)
        total, last, clips, skipped = sums.tolist()
        now = time.monotonic()
        elapsed = now - self._since
        values = {
            "epoch": progress.epoch,
            "step": progress.step,
            "loss": last / self._ranks.world_size,
            "avg_loss": total / self._ranks.world_size / len(losses),
            "lr": result.lr,
            "grad_norm": result.grad_norm.item(),
            "s_per_step": elapsed / len(losses),
            "clips_per_s": clips / elapsed,
            "skipped_clips": skipped,
            "time_unix_s": time.time(),
        }
        for sink in self._sinks:
            with best_effort("the numbers of a step"):
                sink.write(values, progress.global_step)
        if self._ranks.is_first:
            log.info(
                "step %d  loss %.4f  grad_norm %.3g  lr %.3g  %.2f s/step",
                progress.global_step,
                values["loss"],
                values["grad_norm"],
                result.lr,
                values["s_per_step"],
            )
        self._losses, self._clips, self._since = [], 0, now

    def _note_skipped(self, batch: Batch) -> None:
        self._skipped += len(batch.skipped)
        for clip in batch.skipped:
            log.warning("skipped clip %s: %s", clip.path, clip.reason)
        rows = [
            {"row": clip.row, "path": clip.path, "reason": clip.reason} for clip in batch.skipped
        ]
        if rows:
            with best_effort("the names of skipped clips"):
                append_jsonl(self._attempt.skipped_clips(self._ranks.rank), rows)
