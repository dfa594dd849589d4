"""The log of a run's steps: averages over ranks and steps, speed, heartbeat."""

import logging
import time
from statistics import fmean
from typing import Any

import torch.distributed as dist

from trainer.atomic_files import FolderClock, append_jsonl
from trainer.data.position import Position
from trainer.distributed.parallel import Ranks
from trainer.metrics.bucket_seconds import BucketSeconds
from trainer.metrics.peak import peak_of
from trainer.metrics.sinks import best_effort, open_sinks
from trainer.metrics.step_report import Report, report, summary
from trainer.run_dir import AttemptDir, RunDir
from trainer.settings import dump
from trainer.step import StepResult, TrainStep

log = logging.getLogger("trainer")


class TrainLog:
    """Collects every step on every rank; rank 0 writes every `log.every_steps` steps."""

    def __init__(
        self,
        run: RunDir,
        attempt: AttemptDir,
        train_step: TrainStep,
        ranks: Ranks,
        bucket_seconds: BucketSeconds,
        global_step: int,
    ) -> None:
        settings = train_step.config
        self._run, self._attempt, self._ranks = run, attempt, ranks
        self._train_step, self._bucket_seconds = train_step, bucket_seconds
        self._sinks = (
            open_sinks(run, settings.log, dump(settings), global_step=global_step)
            if ranks.is_first
            else []
        )
        self._peak = peak_of(train_step.device, train_step.dtype)
        self._steps: list[StepResult] = []
        self._seen_buckets: set[str] = set()
        self._skipped_clips = 0
        self._since = time.monotonic()
        self._clock = FolderClock(run.path) if ranks.is_first else None
        self.skips_in_a_row = 0  # steps that the guard had left out at the last line

    def step(
        self,
        result: StepResult,
        position: Position,
        total_steps: int,
        validation_losses: list[float] | None,
    ) -> None:
        """Take in one step; on a step to be logged rank 0 gathers from all ranks."""
        self._steps.append(result)
        self._note_skipped(result)
        if self._ranks.is_first:
            with best_effort("the heartbeat"):
                self._run.beat(position.global_step, total_steps, self._attempt.number)
        every = self._train_step.config.log.every_steps
        if position.global_step % every == 0 or validation_losses is not None:
            self._write(result, position, self._validated(validation_losses, position.global_step))

    def _validated(self, losses: list[float] | None, global_step: int) -> dict[str, float]:
        """The mean for the log; the clips' own losses, for intervals and tests, have a file."""
        if losses is None:
            return {}
        if self._ranks.is_first:
            with best_effort("the validation's losses"):
                append_jsonl(self._run.validation, [{"global_step": global_step, "losses": losses}])
        return {"validation_loss": fmean(losses)}

    def close(self) -> None:
        """Finish the sinks."""
        for sink in self._sinks:
            with best_effort("the end of the numbers"):
                sink.close()

    def _write(self, result: StepResult, position: Position, more: dict[str, float]) -> None:
        settings, guard = self._train_step.config, self._train_step.state.optimizer.guard
        phases = self._train_step.phases.read()
        mine = report(self._steps, phases, settings.flow.num_timesteps, self._seen_buckets)
        skipped_steps, self.skips_in_a_row = guard.counts.tolist()
        norms = {"grad_norm": result.grad_norm.item(), "weight_norm": result.weight_norm.item()}
        gathered: list[Any] | None = (
            [None] * self._ranks.world_size if self._ranks.is_first else None
        )
        dist.gather_object((mine, self._skipped_clips), gathered)
        now = time.monotonic()
        elapsed, self._since, self._steps = now - self._since, now, []
        if gathered is None:
            return
        assert self._clock is not None  # rank 0 alone gathers
        reports: list[Report] = [one for one, _ in gathered]
        for one in reports:
            self._bucket_seconds.add(one.buckets)
        values = {
            "epoch": position.epoch,
            "step": position.step,
            **summary(reports, elapsed, self._peak),
            **norms,
            **more,
            "lr": result.lr,
            "skipped_clips": sum(skipped for _, skipped in gathered),
            "skipped_steps": skipped_steps,
            "attempt": self._attempt.number,
            "time_unix_s": self._clock(),
        }
        for sink in self._sinks:
            with best_effort("the numbers of a step"):
                sink.write(values, position.global_step)
        log.info(
            "step %d  loss %.4f  grad_norm %.3g  lr %.3g  %.2f s/step",
            position.global_step,
            *(values[name] for name in ("loss", "grad_norm", "lr", "s_per_step")),
        )

    def _note_skipped(self, result: StepResult) -> None:
        skipped = [clip for one in result.micro for clip in one.skipped]
        self._skipped_clips += len(skipped)
        for clip in skipped:
            log.warning("skipped clip %s: %s", clip.path, clip.reason)
        rows = [{"row": clip.row, "path": clip.path, "reason": clip.reason} for clip in skipped]
        if rows:
            with best_effort("the names of skipped clips"):
                append_jsonl(self._attempt.skipped_clips(self._ranks.rank), rows)
