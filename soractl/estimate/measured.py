"""Seconds of a stage's buckets where they were measured: by a run of it, or by a rehearsal."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soractl.estimate import rehearsals
from soractl.runs.find import runs_of_stage
from soractl.terminal import text
from trainer.atomic_files import RunDirError, read_json
from trainer.config import TrainConfig
from trainer.run_dir import RunDir
from trainer.settings import dump

if TYPE_CHECKING:
    from trainer.data.buckets import Bucket

_DECIDING = ("model", "buckets")  # settings that must be the same


@dataclass(frozen=True)
class Measured:
    """Seconds and bytes from one source."""

    source: str  # rehearsal of 2026-11-30, 24 ranks on NVIDIA H200
    measured_unix_s: float
    gpu: str | None
    cached: bool  # whether features came from a cache
    seconds: Mapping[str, float]  # of a micro batch, by the bucket's name
    encode_s: Mapping[str, float] = field(default_factory=dict)  # VAE and T5 of them
    peak_bytes: Mapping[str, int] = field(default_factory=dict)

    def of(self, bucket: "Bucket") -> str | None:
        """The name under which a bucket, or one of its resolution and length, was measured."""
        if bucket.name in self.seconds:
            return bucket.name
        group = bucket.name.rpartition("/")[0]
        return next((name for name in self.seconds if name.rpartition("/")[0] == group), None)


def find(root: Path, stage: str, settings: TrainConfig) -> Measured | None:
    """The newest measurement with these buckets, this model, and features as here."""
    found = [_of_rehearsal(root, stage, settings)]
    found += [_of_run(run, settings) for run in runs_of_stage(root, stage)]
    known = [one for one in found if one is not None and one.seconds]
    return max(known, key=lambda one: one.measured_unix_s, default=None)


def _of_rehearsal(root: Path, stage: str, settings: TrainConfig) -> Measured | None:
    rehearsal = rehearsals.read(root, stage)
    if rehearsal is None or not _fits(rehearsal.settings, settings):
        return None
    done = [one for one in rehearsal.buckets if one.seconds is not None]
    day = time.strftime("%Y-%m-%d", time.localtime(rehearsal.created_unix_s))
    ranks = text.count(rehearsal.world_size, "rank")
    return Measured(
        source=f"rehearsal of {day}, {ranks} on {rehearsal.gpu or 'CPUs'}",
        measured_unix_s=rehearsal.created_unix_s,
        gpu=rehearsal.gpu,
        cached=settings.data.features is not None,
        seconds={one.name: one.seconds for one in done if one.seconds is not None},
        encode_s={one.name: one.encode_s for one in done if one.encode_s is not None},
        peak_bytes={one.name: one.peak_bytes for one in done if one.peak_bytes is not None},
    )


def _of_run(run: RunDir, settings: TrainConfig) -> Measured | None:
    try:
        rows = read_json(run.bucket_seconds)
        if not _fits(read_json(run.config_json), settings):
            return None
        return Measured(
            source=f"run {run.name}",
            measured_unix_s=run.bucket_seconds.stat().st_mtime,
            gpu=None,
            cached=settings.data.features is not None,
            seconds={name: float(row["seconds"]) for name, row in rows.items()},
        )
    except (OSError, RunDirError, KeyError, TypeError, ValueError):
        return None


def _fits(values: Mapping[str, Any], settings: TrainConfig) -> bool:
    """The same buckets and model, as JSON has them, and features cached in both or in neither."""
    own = _plain(dump(settings))
    same = all(_plain(values.get(name)) == own[name] for name in _DECIDING)
    cached = (values.get("data") or {}).get("features") is not None
    return same and cached == (settings.data.features is not None)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items() if one is not None}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
