"""Makers of what tests and benchmarks need: manifests and checkpoints."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from trainer.atomic_files import describe_file, write_json
from trainer.checkpoint_dir import Checkpoint
from trainer.config import load_stage
from trainer.manifest import Manifest
from trainer.run_dir import RunDir
from trainer.settings import dump


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


def publish_random_weights(run: RunDir, *settings: str) -> Checkpoint:
    """Publish a complete checkpoint of the smoke networks, whose settings the run then has."""
    from safetensors.torch import save_file

    from trainer.checkpoints.checkpoint import INDEX
    from trainer.model import build as networks

    defaults = ("flow.sampling_steps=2", "trainer.dtype=fp32")
    config = load_stage("smoke", [*defaults, *settings]).config
    write_json(run.config_json, dump(config))
    model = networks.build_model(config)
    draft = run.draft_path(0, 1)
    for name in ("model", "ema"):
        (draft / name).mkdir(parents=True)
        save_file(model.state_dict(), draft / name / "weights.safetensors")
        index = {"weight_map": dict.fromkeys(model.state_dict(), "weights.safetensors")}
        (draft / name / INDEX).write_text(json.dumps(index))
    files = {
        f"{name}/{file}": describe_file(draft / name / file)
        for name in ("model", "ema")
        for file in ("weights.safetensors", INDEX)
    }
    return run.publish(draft, make_manifest(1, files=files))


def publish_again(run: RunDir, first: Checkpoint, step: int) -> None:
    """The same weights as the checkpoint of another step."""
    manifest = replace(first.manifest, step=step, global_step=step)
    draft = run.draft_path(0, step)
    for name in first.manifest.files:
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(first.path / name, draft / name)
    run.publish(draft, manifest)
