"""Makers of what tests and benchmarks need: manifests and checkpoints."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from trainer.atomic_files import describe_file
from trainer.checkpoint_dir import Checkpoint
from trainer.manifest import Manifest
from trainer.run_dir import RunDir


def make_manifest(global_step: int, *, world_size: int = 2, **values: Any) -> Manifest:
    """A checkpoint's manifest at a step of the first epoch; `values` replace its fields."""
    start: dict[str, Any] = {
        "epoch": 0,
        "step": global_step,
        "global_step": global_step,
        "world_size": world_size,
        "consumed": ((world_size, global_step),),
        "data_fingerprint": {},
    }
    return Manifest(**{**start, **values})


def publish_files(
    run: RunDir, manifest: Manifest, contents: Iterable[tuple[str, bytes]]
) -> Checkpoint:
    """Publish a complete checkpoint of these files, which its manifest then describes."""
    draft, files = run.draft_path(manifest.epoch, manifest.global_step), {}
    for name, content in contents:
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        (draft / name).write_bytes(content)
        files[name] = describe_file(draft / name)
    return run.publish(draft, replace(manifest, files=files))


def publish_random_files(run: RunDir, manifest: Manifest, sizes: Mapping[str, int]) -> Checkpoint:
    """Publish a complete checkpoint of random files of so many bytes."""
    return publish_files(run, manifest, ((name, os.urandom(size)) for name, size in sizes.items()))
