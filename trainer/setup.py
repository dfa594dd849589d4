"""Setting up a run's training on one rank: clips, networks, state, and where it goes on."""

import gc
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from trainer.atomic_files import read_json
from trainer.checkpoint_dir import Checkpoint, read_checkpoint
from trainer.checkpoints.checkpoint import TrainingState, restore
from trainer.checkpoints.integrity import files_of, refuse_damaged, source_of
from trainer.checkpoints.rollback import roll_back_to
from trainer.checkpoints.saver import Saver
from trainer.config import TrainConfig
from trainer.data.cached_features import CachedFeatures, open_features
from trainer.data.dataset import load_clips
from trainer.data.epoch import plan_rest_of_epoch
from trainer.data.fingerprint import check_same_data, fingerprint
from trainer.data.position import Position, beginning, resumed
from trainer.distributed.consensus import StopSaveConsensus
from trainer.distributed.node_group import node_of
from trainer.distributed.parallel import Ranks
from trainer.distributed.zero import wrap_with_zero
from trainer.ema import Ema
from trainer.guard import Guard
from trainer.lr_schedule import build_lr_schedule
from trainer.metrics.bucket_seconds import BucketSeconds
from trainer.metrics.ledger import Ledger
from trainer.metrics.train_log import TrainLog
from trainer.model import build as networks
from trainer.model.kernels.available import COMPILER
from trainer.model.pretrained import load_weights
from trainer.phases import Phases
from trainer.precision import DTYPES
from trainer.rectified_flow import RectifiedFlow
from trainer.run_dir import AttemptDir, RunDir
from trainer.settings import ConfigError
from trainer.step import TrainStep
from trainer.training import Training
from trainer.validation import Validation

log = logging.getLogger("trainer")


def prepare(run: RunDir, attempt: AttemptDir, settings: TrainConfig, ranks: Ranks) -> Training:
    """Clips, networks and state, as the attempt's plan says where to start.

    ConfigError if its checkpoint was trained on other data.
    """
    clips = load_clips(Path(settings.data.path))
    features = open_features(settings, clips)
    origin = read_json(attempt.plan)["start"]
    checkpoint = _resume_point(origin)
    reset_data = bool(origin.get("reset_data"))
    position = _position(checkpoint, ranks.world_size, reset_data=reset_data)
    if checkpoint and not reset_data:
        draw = features.draw_of(position.epoch)
        check_same_data(checkpoint, fingerprint(clips, settings, draw))
    # refuses a table before networks load
    plan_rest_of_epoch(clips, features, position, settings, ranks)
    with _reading(checkpoint, origin, ranks):
        train_step = build(settings, ranks, origin, position, features)
        if checkpoint:
            _restore(checkpoint, train_step, ranks)
    if ranks.is_first:
        roll_back_to(run, attempt, position.global_step)
    saver = Saver(run, ranks, settings.checkpoint)
    saver.preallocate_host_memory(train_step.state)
    bucket_seconds = BucketSeconds(run, ranks)
    training = Training(
        run=run,
        train_step=train_step,
        clips=clips,
        features=features,
        ranks=ranks,
        log=TrainLog(run, attempt, train_step, ranks, bucket_seconds, position.global_step),
        ledger=Ledger(attempt, ranks),
        saver=saver,
        consensus=StopSaveConsensus(settings.trainer.collective_timeout_s),
        position=position,
        bucket_seconds=bucket_seconds,
        validation=Validation(train_step, ranks) if settings.validation.every_steps else None,
    )
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection at a random moment makes all ranks wait; _save collects
    return training


def _position(checkpoint: Checkpoint | None, world_size: int, *, reset_data: bool) -> Position:
    """The position to go on at."""
    if checkpoint is None:
        return beginning(world_size)
    position = resumed(checkpoint.manifest, world_size)
    return position.start_of_epoch() if reset_data else position


def _restore(checkpoint: Checkpoint, train_step: TrainStep, ranks: Ranks) -> None:
    restore(checkpoint, train_step.state, ranks)
    manifest = checkpoint.manifest
    train_step.state.optimizer.guard.restore(manifest.recent_grad_norms, manifest.skipped_steps)
    log.info("resumed from %s", checkpoint.name)


def build(
    settings: TrainConfig,
    ranks: Ranks,
    origin: Mapping[str, Any],
    position: Position,
    features: CachedFeatures,
) -> TrainStep:
    """The networks on their device and what trains them; no encoder of what is cached."""
    if not features.captions:
        networks.check_captions(settings)
    dtype = DTYPES[settings.trainer.dtype]
    model, node = networks.build_model(settings), node_of(ranks)
    if origin["kind"] == "init_from":
        report = node.run_on_reader(lambda: load_weights(model, Path(origin["path"])))
        node.broadcast_from_reader(model.state_dict().values())
        if ranks.is_first:
            log.info("start weights from %s: %s", origin["path"], report)
    guard, phases = Guard(settings.guard.spike_factor), Phases()
    wrapped, optimizer = wrap_with_zero(model, settings.optim, settings.trainer, guard, phases)
    if settings.trainer.compile:
        model.compile_blocks()
    if ranks.is_first and ranks.device.type == "cuda" and not COMPILER:
        log.warning("no C compiler here (gcc, clang or $CC), so networks take a slower way")
    where = {"device": ranks.device, "dtype": dtype}
    make_vae = partial(networks.build_vae, settings.vae, settings.seed, **where)
    make_encoder = partial(
        networks.build_caption_encoder, settings.text_encoder, settings.seed, **where
    )
    return TrainStep(
        config=settings,
        device=ranks.device,
        vae=None if features.latents else node.build(make_vae),
        caption_encoder=None if features.captions else node.build(make_encoder),
        flow=RectifiedFlow(settings.flow),
        model=wrapped,
        state=TrainingState(model, optimizer, Ema(optimizer.masters, settings.optim.ema_decay)),
        lr_schedule=build_lr_schedule(optimizer.optim, settings.optim, position.global_step),
        phases=phases,
    )


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
            node.run_on_reader(lambda: refuse_damaged(source, names))
        yield


def _resume_point(origin: Mapping[str, Any]) -> Checkpoint | None:
    if origin["kind"] != "resume":
        return None
    found = read_checkpoint(Path(origin["path"]))
    if not isinstance(found, Checkpoint):
        raise ConfigError([f"{found.path} is no complete checkpoint: {found.reason}"])
    return found
