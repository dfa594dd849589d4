"""Rehearsal of one bucket: a few steps of training as they will be, measured, and nothing kept."""

import logging
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from trainer.atomic_files import read_json, write_json
from trainer.checkpoints.saver import Saver
from trainer.config import TrainConfig
from trainer.data.batch_sampler import MicroBatch
from trainer.data.buckets import IntArray, assign_epoch
from trainer.data.cached_features import CachedFeatures, open_features
from trainer.data.dataset import ClipTable, load_clips
from trainer.data.loader import ClipLoader
from trainer.data.position import beginning
from trainer.distributed.parallel import MEMORY_SHARE, Ranks
from trainer.manifest import Manifest
from trainer.run_dir import AttemptDir, RunDir
from trainer.settings import ConfigError
from trainer.setup import build
from trainer.step import TrainStep

log = logging.getLogger("trainer")

WARM_STEPS = 3  # after the first, in which kernels are loaded and memory is taken
_REDUCED_BYTES = {"cuda": 2**28, "cpu": 2**22}  # of the all-reduce that is timed
_REDUCTIONS = 5


def rehearse(run: RunDir, attempt: AttemptDir, settings: TrainConfig, ranks: Ranks) -> None:
    """Take steps on the bucket that `rehearsal.json` names; `rehearsed.json` has what they took.

    GpuMemoryError if the bucket does not fit, ConfigError if the table has no clip for it.
    """
    request = read_json(attempt.rehearsal)
    clips = load_clips(Path(settings.data.path))
    features = open_features(settings, clips)
    batches = _micro_batches(clips, features, settings, ranks, request["bucket"])
    origin = read_json(attempt.plan)["start"]
    train_step = build(settings, ranks, origin, beginning(ranks.world_size), features)
    with ClipLoader(clips, seed=settings.seed, settings=settings.data, features=features) as loader:
        measured = _steps(train_step, loader.batches(0, batches), len(batches))
    measured |= memory_of(ranks.device) | {"reduced_bytes_per_s": _reduction_rate(ranks)}
    if request["checkpoint"]:
        measured |= _checkpoint(run, train_step, ranks)
    gathered: list[Any] | None = [None] * ranks.world_size if ranks.is_first else None
    dist.gather_object(measured, gathered)
    if gathered:
        gpu = torch.cuda.get_device_name() if ranks.device.type == "cuda" else None
        write_json(attempt.rehearsed, {**worst_of(gathered), "gpu": gpu})


def worst_of(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """The slowest rank's seconds, the fullest one's memory, and what rank 0 alone knows."""
    slowest = max(measured, key=lambda one: float(one["seconds"]))
    fullest = min(measured, key=lambda one: int(one["left_bytes"]))
    memory = {name: fullest[name] for name in ("peak_bytes", "left_bytes")}
    return measured[0] | slowest | memory


def memory_of(device: torch.device) -> dict[str, int]:
    """Bytes that this process held at most, and what was left for it then."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
        whole = int(torch.cuda.get_device_properties(device).total_memory * MEMORY_SHARE)
        return {"peak_bytes": peak, "left_bytes": whole - peak}
    kilo = 1 if sys.platform == "darwin" else 1024
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo,
        "left_bytes": free,
    }


def _micro_batches(
    clips: ClipTable,
    features: CachedFeatures,
    settings: TrainConfig,
    ranks: Ranks,
    name: str,
) -> list[MicroBatch]:
    """This rank's, of the bucket's own clips; where these are few, they come again."""
    assignment = assign_epoch(clips, settings, features.draw_of(0))
    place = [bucket.name for bucket in assignment.buckets].index(name)
    bucket, rows = assignment.buckets[place], np.flatnonzero(assignment.index == place)
    if not len(rows):
        raise ConfigError([f"{settings.data.path} has no clip for {name}"])
    found = []
    for step in range(1 + WARM_STEPS):
        index = step * ranks.world_size + ranks.rank
        first = index * bucket.batch_size
        places: IntArray = np.arange(first, first + bucket.batch_size) % len(rows)
        found.append(MicroBatch(index, bucket, tuple(rows[places].tolist())))
    return found


def _steps(train_step: TrainStep, batches: Any, count: int) -> dict[str, Any]:
    """Seconds of the first step, and means of the others."""
    seconds, phases = [], []
    for _ in range(count):
        began = time.perf_counter()
        train_step.run(batches, 1, 0)
        if train_step.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        phases.append(_sum(train_step.phases.read()))
        log.info("step %d: %.2f s", len(seconds), seconds[-1])
    warm = phases[1:]
    means = {name: sum(one.get(name, 0.0) for one in warm) / len(warm) for name in warm[-1]}
    return {
        "seconds": sum(seconds[1:]) / len(warm),
        "cold_s": seconds[0],
        "data_s": means.get("data", 0.0),
        "encode_s": means.get("encode", 0.0),
    }


def _sum(micro_steps: list[dict[str, float]]) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for one in micro_steps:
        for name, seconds in one.items():
            found[name] = found.get(name, 0.0) + seconds
    return found


def _reduction_rate(ranks: Ranks) -> float | None:
    """Bytes a second that a rank sends and receives while all add up one tensor (NCCL's busbw)."""
    if ranks.world_size == 1:
        return None
    size = _REDUCED_BYTES[ranks.device.type]
    numbers = torch.zeros(size // 4, device=ranks.device)
    dist.all_reduce(numbers)
    began = _now(ranks.device)
    for _ in range(_REDUCTIONS):
        dist.all_reduce(numbers)
    seconds = (_now(ranks.device) - began) / _REDUCTIONS
    return 2 * (ranks.world_size - 1) / ranks.world_size * size / seconds


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _checkpoint(run: RunDir, train_step: TrainStep, ranks: Ranks) -> dict[str, Any]:
    """Write a checkpoint as training does, time it, and remove it."""
    saver = Saver(run, ranks, train_step.config.checkpoint)
    saver.preallocate_host_memory(train_step.state)
    began = time.perf_counter()
    position = beginning(ranks.world_size)
    manifest = Manifest(
        epoch=0,
        step=0,
        global_step=0,
        world_size=ranks.world_size,
        consumed=position.consumed,
        data_fingerprint={},
    )
    saver.save(train_step.state, manifest)
    stood = time.perf_counter() - began
    saver.close()
    seconds = time.perf_counter() - began
    dist.barrier()
    if not ranks.is_first:
        return {}
    written = run.checkpoints()
    if not written:
        return {"checkpoint_fault": "it could not be written; the log of the head node says why"}
    size = sum(int(facts["bytes"]) for facts in written[-1].manifest.files.values())
    written[-1].remove()
    return {"checkpoint_s": seconds, "checkpoint_stall_s": stood, "checkpoint_bytes": size}
