"""A run's training on one rank: build, restore, loop."""

import gc
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint import CheckpointException

from trainer import config
from trainer.checkpoints.checkpoint import TrainingState, restore
from trainer.checkpoints.integrity import files_of, refuse_damaged, source_of
from trainer.checkpoints.saver import Saver
from trainer.checkpoints.takeover import take_over
from trainer.config import TrainConfig
from trainer.data.batch_sampler import EpochPlan, left_out, plan_epoch
from trainer.data.buckets import assign, bucket_rules
from trainer.data.cached_features import CachedFeatures, open_features
from trainer.data.dataset import ClipTable, load_clips
from trainer.data.fingerprint import check_same_data, fingerprint
from trainer.data.loader import ClipLoader
from trainer.data.position import Progress, beginning, resumed
from trainer.distributed.agreement import SAVE, Agreement
from trainer.distributed.node_group import node_of
from trainer.distributed.parallel import Ranks, process_group
from trainer.distributed.zero import boost
from trainer.ema import Ema
from trainer.guard import Guard
from trainer.lr_schedule import build_lr_schedule
from trainer.metrics.bucket_seconds import BucketSeconds
from trainer.metrics.sinks import best_effort
from trainer.metrics.train_log import TrainLog
from trainer.model import build as networks
from trainer.model.kernels.available import COMPILER
from trainer.model.pretrained import WeightsError, load_weights
from trainer.phases import Phases
from trainer.precision import DTYPES
from trainer.rectified_flow import RectifiedFlow
from trainer.run_dir import (
    AttemptDir,
    Checkpoint,
    Manifest,
    RunDir,
    read_checkpoint,
    read_json,
    write_json,
)
from trainer.settings import ConfigError
from trainer.step import GpuMemoryError, Trainee
from trainer.validation import Validation

log = logging.getLogger("trainer")


class TooManySkipsError(Exception):
    """The guard left out step after step; the message says what to do."""


_USERS_FAULT = (
    ConfigError,
    WeightsError,
    TooManySkipsError,
    GpuMemoryError,
)  # said in one sentence, without a traceback


def main(run_path: str) -> None:
    """Train until the stage's epochs are over; what goes wrong is left in the attempt's folder."""
    rank = int(os.environ["RANK"])
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format=f"%(asctime)s rank {rank}: %(message)s",
        datefmt="%H:%M:%S",
    )
    run = RunDir(Path(run_path))
    attempt = run.attempts()[-1]
    try:
        settings = config.read(attempt.config_json)
        with process_group(settings.trainer) as ranks:
            training = prepare(run, attempt, settings, ranks)
            training.run_to_the_end()
    except (Exception, CheckpointException) as error:  # torch's is no Exception
        _leave_word(attempt, rank, error)
        if isinstance(error, _USERS_FAULT):
            sys.exit(f"error: {error}")
        raise
    if training.signal:
        if ranks.is_first:
            _note_stop(attempt, training)
        sys.exit(128 + training.signal)


@dataclass
class Training:
    """A run on this rank: what is trained, on what, and how far it has come."""

    run: RunDir
    trainee: Trainee
    clips: ClipTable
    features: CachedFeatures
    ranks: Ranks
    log: TrainLog
    saver: Saver
    agreement: Agreement
    progress: Progress
    bucket_seconds: BucketSeconds
    validation: Validation | None
    signal: int = 0  # at which all ranks agreed to leave

    def run_to_the_end(self) -> None:
        """Every epoch that is left, or until `trainer.max_steps` or a signal."""
        settings = self.trainee.config
        with ClipLoader(
            self.clips, seed=settings.seed, settings=settings.data, features=self.features
        ) as loader:
            while self.progress.epoch < settings.epochs and not self._is_over():
                self._run_epoch(loader)
        self.saver.close()
        self.log.close()

    def _run_epoch(self, loader: ClipLoader) -> None:
        epoch = self.progress.epoch
        plan, leaves_out = _plan_epoch(
            self.clips, self.features, self.progress, self.trainee.config, self.ranks
        )
        if leaves_out:
            log.info("clips that this epoch leaves out, of %d: %s", len(self.clips), leaves_out)
        total = self._total_steps(plan)
        log.info("epoch %d: step %d of %d", epoch, self.progress.step, self._steps_of_epoch(plan))
        if unreadable := self.run.unreadable_clips():
            log.info("%d clips that could not be read before are not tried again", len(unreadable))
            loader.leave_out(unreadable)
        mine = plan.for_rank(self.ranks.rank, self.progress.micro_step)
        batches = loader.batches(epoch, mine)
        while left := plan.steps - self.progress.micro_step:
            micro_steps = min(left, self.trainee.config.optim.accumulate)
            result = self.trainee.step(batches, micro_steps, epoch)
            self.progress = self.progress.after_step(micro_steps)
            self.log.step(result, self.progress, total, self._validation_loss())
            self._stop_if_all_is_skipped()
            wish = self.agreement.after_step()
            self.signal = 0 if wish == SAVE else wish
            if micro_steps == left:
                break  # saved below, with the costs that order the next epoch
            if wish or self._is_over() or self._is_checkpoint_due():
                self._save()
            if self._is_over():
                return
        is_measured = self.trainee.config.balance.measured
        ended, costs = self.progress, self.bucket_seconds.agreed() if is_measured else {}
        self.progress = ended.next_epoch(costs)
        self._save(ended)

    def _validation_loss(self) -> float | None:
        every = self.trainee.config.validation.every_steps
        is_due = self.validation and self.progress.global_step % every == 0
        return self.validation.loss() if self.validation and is_due else None

    def _stop_if_all_is_skipped(self) -> None:
        guard, skips = self.trainee.config.guard, self.log.skips_in_a_row
        if skips < guard.most_skips:
            return
        self._save()
        self.saver.close()
        dist.barrier()  # the first rank to end takes the others with it
        raise TooManySkipsError(
            f"{skips} steps in a row were left out, up to step {self.progress.global_step}: their "
            "gradients were not finite, or above guard.spike_factor times the usual; the weights "
            "of the last good step are saved, and `soractl resume latest --set optim.lr=LESS` "
            "goes on with them"
        )

    def _steps_of_epoch(self, plan: EpochPlan) -> int:
        micro_steps = plan.steps - self.progress.micro_step
        return self.progress.step - (-micro_steps // self.trainee.config.optim.accumulate)

    def _total_steps(self, plan: EpochPlan) -> int:
        """The run's steps, if every epoch had as many as this; buckets are drawn anew each time."""
        settings, steps = self.trainee.config, self._steps_of_epoch(plan)
        left = (settings.epochs - self.progress.epoch) * steps - self.progress.step
        return min(self.progress.global_step + left, settings.trainer.max_steps or sys.maxsize)

    def _is_over(self) -> bool:
        most = self.trainee.config.trainer.max_steps
        return bool(self.signal) or (most is not None and self.progress.global_step >= most)

    def _is_checkpoint_due(self) -> bool:
        settings = self.trainee.config.checkpoint
        minutes = settings.every_minutes
        if self.ranks.is_first and minutes and self.saver.idle_s > minutes * 60:
            self.agreement.wish_to_save()
        return settings.every_steps > 0 and self.progress.global_step % settings.every_steps == 0

    def _save(self, ended: Progress | None = None) -> None:
        """Here, or at the end of an epoch, which gives the checkpoint its name."""
        progress, guard = self.progress, self.trainee.state.optimizer.guard
        place = ended or progress
        manifest = Manifest(
            epoch=place.epoch,
            step=place.step,
            global_step=place.global_step,
            world_size=self.ranks.world_size,
            consumed=place.consumed,
            epoch_is_over=ended is not None,
            data_fingerprint=fingerprint(
                self.clips, self.trainee.config, self.features.draw_of(progress.epoch)
            ),
            costs=progress.costs,
            recent_grad_norms=tuple(guard.recent_norms),
            skipped_steps=int(guard.counts[0]),
        )
        with best_effort("what buckets take"):
            self.bucket_seconds.save()
        self.saver.save(self.trainee.state, manifest)
        gc.collect()


def prepare(run: RunDir, attempt: AttemptDir, settings: TrainConfig, ranks: Ranks) -> Training:
    """Clips, networks and state, as the attempt's plan says where to start."""
    clips = load_clips(Path(settings.data.path))
    features = open_features(settings, clips)
    origin = read_json(attempt.plan)["start"]
    checkpoint = _resume_point(origin)
    progress = beginning(ranks.world_size)
    if checkpoint:
        progress = resumed(checkpoint.manifest, ranks.world_size)
        if origin.get("reset_data"):
            progress = progress.start_of_epoch()
        else:
            draw = features.draw_of(progress.epoch)
            check_same_data(run.name, checkpoint, fingerprint(clips, settings, draw))
    _plan_epoch(clips, features, progress, settings, ranks)  # refuses a table before networks load
    with _reading(checkpoint, origin, ranks):
        trainee = build(settings, ranks, origin, progress, features)
        if checkpoint:
            restore(checkpoint, trainee.state, ranks)
    if checkpoint:
        manifest = checkpoint.manifest
        trainee.state.optimizer.guard.restore(manifest.recent_grad_norms, manifest.skipped_steps)
        log.info("resumed from %s", checkpoint.name)
    if ranks.is_first:
        take_over(run, attempt, progress.global_step)
    saver = Saver(run, ranks, settings.checkpoint)
    saver.make_room(trainee.state)
    bucket_seconds = BucketSeconds(run, ranks)
    training = Training(
        run=run,
        trainee=trainee,
        clips=clips,
        features=features,
        ranks=ranks,
        log=TrainLog(run, attempt, trainee, ranks, bucket_seconds, progress.global_step),
        saver=saver,
        agreement=Agreement(),
        progress=progress,
        bucket_seconds=bucket_seconds,
        validation=Validation(trainee, ranks) if settings.validation.every_steps else None,
    )
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection at a random moment makes all ranks wait; _save collects
    return training


def _plan_epoch(
    clips: ClipTable,
    features: CachedFeatures,
    progress: Progress,
    settings: TrainConfig,
    ranks: Ranks,
) -> tuple[EpochPlan, str]:
    """What is left of an epoch; at its beginning, also which clips it leaves out.

    ConfigError says why these are all.
    """
    buckets = settings.buckets
    rules = bucket_rules(buckets.frames, buckets.batch_size, buckets.keep)
    assignment = assign(clips, rules, settings.seed, features.draw_of(progress.epoch))
    plan = plan_epoch(
        replace(assignment, epoch=progress.epoch),
        world_size=ranks.world_size,
        window=settings.balance.window,
        consumed=progress.finished_segments,
        costs=progress.costs,
    )
    if progress.finished_segments:
        return plan, ""
    counts = left_out(clips, rules, assignment, plan)
    told = "; ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    if plan.steps == 0:
        raise ConfigError(
            [
                f"{settings.data.path}: none of its {len(clips)} clips can be trained "
                f"on by {ranks.world_size} ranks: {told}; change data.path or buckets"
            ]
        )
    return plan, told or "none"


@contextmanager
def _reading(
    checkpoint: Checkpoint | None, origin: Mapping[str, Any], ranks: Ranks
) -> Iterator[None]:
    """Keep what is started from; of start weights, it is checked too that they are undamaged."""
    node = node_of(ranks)
    weights = Path(origin["path"]) if origin["kind"] == "init_from" else None
    source = source_of(weights) if weights else checkpoint
    with source.being_read() if source and node.is_reader else nullcontext():
        if source and weights:
            names = files_of(source, weights)
            node.ask_reader(lambda: refuse_damaged(source, names))
        yield


def build(
    settings: TrainConfig,
    ranks: Ranks,
    origin: Mapping[str, Any],
    progress: Progress,
    features: CachedFeatures,
) -> Trainee:
    """The networks on their device and what trains them; no encoder of what is cached."""
    if not features.captions:
        networks.check_captions(settings)
    dtype = DTYPES[settings.trainer.dtype]
    model, node = networks.build_model(settings), node_of(ranks)
    if origin["kind"] == "init_from":
        report = node.ask_reader(lambda: load_weights(model, Path(origin["path"])))
        node.hand_out(model.state_dict().values())
        if ranks.is_first:
            log.info("start weights from %s: %s", origin["path"], report)
    guard, phases = Guard(settings.guard.spike_factor), Phases()
    _, wrapped, optimizer = boost(model, settings.optim, settings.trainer, guard, phases)
    if settings.trainer.compile:
        model.compile_blocks()
    if ranks.is_first and ranks.device.type == "cuda" and not COMPILER:
        log.warning("no C compiler here (gcc, clang or $CC), so networks take a slower way")
    where = {"device": ranks.device, "dtype": dtype}
    make_vae = partial(networks.build_vae, settings.vae, settings.seed, **where)
    make_encoder = partial(
        networks.build_caption_encoder, settings.text_encoder, settings.seed, **where
    )
    return Trainee(
        config=settings,
        device=ranks.device,
        vae=None if features.latents else node.build(make_vae),
        caption_encoder=None if features.captions else node.build(make_encoder),
        flow=RectifiedFlow(settings.flow),
        model=wrapped,
        state=TrainingState(model, optimizer, Ema(optimizer.masters, settings.optim.ema_decay)),
        lr_schedule=build_lr_schedule(optimizer.optim, settings.optim, progress.global_step),
        phases=phases,
    )


def _resume_point(origin: Mapping[str, Any]) -> Checkpoint | None:
    if origin["kind"] != "resume":
        return None
    found = read_checkpoint(Path(origin["path"]))
    if not isinstance(found, Checkpoint):
        path, reason = found
        raise ConfigError([f"{path} is no complete checkpoint: {reason}"])
    return found


def _note_stop(attempt: AttemptDir, training: Training) -> None:
    write_json(
        attempt.stopped,
        {
            "signal": signal.Signals(training.signal).name,
            "global_step": training.progress.global_step,
            "time_unix_s": time.time(),
        },
    )


def _leave_word(attempt: AttemptDir, rank: int, error: BaseException) -> None:
    """Write down why this rank ends, for the launcher to show."""
    is_users_fault = isinstance(error, _USERS_FAULT)
    write_json(
        attempt.rank_failure(rank),
        {
            "rank": rank,
            "node": socket.gethostname(),
            "error": str(error) if is_users_fault else f"{type(error).__name__}: {error}",
            "traceback": None if is_users_fault else traceback.format_exc(),
            "time_unix_s": time.time(),
        },
    )
