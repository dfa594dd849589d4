"""The training loop of a run on one rank: epochs, steps, saves, and the agreed end."""

import gc
import logging
import sys
from dataclasses import dataclass

import torch.distributed as dist

from trainer.checkpoints.saver import Saver
from trainer.data.batch_sampler import EpochPlan
from trainer.data.cached_features import CachedFeatures
from trainer.data.dataset import ClipTable
from trainer.data.epoch import plan_rest_of_epoch
from trainer.data.fingerprint import fingerprint
from trainer.data.loader import ClipLoader
from trainer.data.position import Position, noted
from trainer.distributed.consensus import SAVE, StopSaveConsensus
from trainer.distributed.parallel import Ranks
from trainer.manifest import Manifest
from trainer.metrics.bucket_seconds import BucketSeconds
from trainer.metrics.ledger import Ledger
from trainer.metrics.sinks import best_effort
from trainer.metrics.train_log import TrainLog
from trainer.remedy import Remedy, with_remedy
from trainer.run_dir import RunDir
from trainer.settings import UserError
from trainer.step import TrainStep
from trainer.validation import Validation

log = logging.getLogger("trainer")


class TooManySkipsError(UserError):
    """The guard left out step after step; the message says what to do."""


@dataclass
class Training:
    """A run on this rank: what is trained, on what, and how far it has come."""

    run: RunDir
    train_step: TrainStep
    clips: ClipTable
    features: CachedFeatures
    ranks: Ranks
    log: TrainLog
    ledger: Ledger
    saver: Saver
    consensus: StopSaveConsensus
    position: Position
    bucket_seconds: BucketSeconds
    validation: Validation | None
    signal: int = 0  # at which all ranks agreed to leave

    def run_to_the_end(self) -> None:
        """Every epoch that is left, or until `trainer.max_steps` or a signal."""
        settings = self.train_step.config
        with ClipLoader(
            self.clips, seed=settings.seed, settings=settings.data, features=self.features
        ) as loader:
            while self.position.epoch < settings.epochs and not self._is_over():
                self._run_epoch(loader)
        self.saver.close()
        self.log.close()
        if self.saver.given_up and not self.signal:
            raise UserError(f"training is over, but {self.saver.given_up}")

    def _run_epoch(self, loader: ClipLoader) -> None:
        epoch = self.position.epoch
        plan, leaves_out = plan_rest_of_epoch(
            self.clips, self.features, self.position, self.train_step.config, self.ranks
        )
        if leaves_out:
            log.info("clips that this epoch leaves out, of %d: %s", len(self.clips), leaves_out)
        total = self._total_steps(plan)
        log.info("epoch %d: step %d of %d", epoch, self.position.step, self._steps_of_epoch(plan))
        if unreadable := self.run.unreadable_clips():
            log.info("%d clips that could not be read before are not tried again", len(unreadable))
            loader.leave_out(unreadable)
        mine = plan.for_rank(self.ranks.rank, self.position.micro_step)
        batches = loader.batches(epoch, mine)
        while left := plan.steps - self.position.micro_step:
            micro_steps = min(left, self.train_step.config.optim.accumulate)
            result = self.train_step.run(batches, micro_steps, epoch)
            self.position = self.position.after_step(micro_steps)
            self.ledger.step(result, self.position)
            self.log.step(result, self.position, total, self._validation_losses())
            self._stop_if_all_is_skipped()
            decision = self.consensus.after_step()
            self.signal = 0 if decision == SAVE else decision
            if micro_steps == left:
                break  # saved below, with the costs that order the next epoch
            if decision or self._is_over() or self._is_checkpoint_due():
                self._save()
            if self._is_over():
                return
        is_measured = self.train_step.config.balance.measured
        ended, costs = self.position, self.bucket_seconds.agreed() if is_measured else {}
        self.position = ended.next_epoch(costs)
        self._save(ended)

    def _validation_losses(self) -> list[float] | None:
        every = self.train_step.config.validation.every_steps
        is_due = self.validation and self.position.global_step % every == 0
        return self.validation.losses() if self.validation and is_due else None

    def _stop_if_all_is_skipped(self) -> None:
        guard, skips = self.train_step.config.guard, self.log.skips_in_a_row
        if skips < guard.most_skips:
            return
        self._save()
        self.saver.close()
        dist.barrier()  # the first rank to end takes the others with it
        rate = self.train_step.config.optim.lr
        raise with_remedy(
            TooManySkipsError(
                f"{skips} steps in a row were left out, up to step {self.position.global_step}: "
                "their gradients were not finite, or above guard.spike_factor times the usual; "
                "the weights of the last good step are saved, and may go on with a lower optim.lr "
                f"(now {rate:g})"
            ),
            Remedy(settings={"optim.lr": float(f"{rate / 2:.3g}")}),
        )

    def _steps_of_epoch(self, plan: EpochPlan) -> int:
        micro_steps = plan.steps - self.position.micro_step
        return self.position.step - (-micro_steps // self.train_step.config.optim.accumulate)

    def _total_steps(self, plan: EpochPlan) -> int:
        """The run's steps, if every epoch had as many as this; buckets are drawn anew each time."""
        settings, steps = self.train_step.config, self._steps_of_epoch(plan)
        left = (settings.epochs - self.position.epoch) * steps - self.position.step
        return min(self.position.global_step + left, settings.trainer.max_steps or sys.maxsize)

    def _is_over(self) -> bool:
        most = self.train_step.config.trainer.max_steps
        return bool(self.signal) or (most is not None and self.position.global_step >= most)

    def _is_checkpoint_due(self) -> bool:
        settings = self.train_step.config.checkpoint
        minutes = settings.every_minutes
        if self.ranks.is_first and minutes and self.saver.idle_s > minutes * 60:
            self.consensus.request_save()
        return settings.every_steps > 0 and self.position.global_step % settings.every_steps == 0

    def _save(self, ended: Position | None = None) -> None:
        """Here, or at the end of an epoch, which gives the checkpoint its name."""
        position, guard = self.position, self.train_step.state.optimizer.guard
        draw = self.features.draw_of(position.epoch)
        manifest = Manifest(
            **noted(position, ended),
            world_size=self.ranks.world_size,
            data_fingerprint=fingerprint(self.clips, self.train_step.config, draw),
            recent_grad_norms=tuple(guard.recent_norms),
            skipped_steps=int(guard.counts[0]),
        )
        with best_effort("what buckets take"):
            self.bucket_seconds.save()
        self.ledger.save()
        self.saver.save(self.train_step.state, manifest)
        gc.collect()
