"""The manifest of a checkpoint: position in the data, files, and the mark that it is complete."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MANIFEST = "checkpoint.json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of `checkpoint.json`, written last: with it a checkpoint is complete."""

    epoch: int
    step: int  # optimizer steps done in this epoch
    global_step: int  # optimizer steps done since the run began
    world_size: int
    consumed: tuple[tuple[int, int], ...]  # (ranks, micro steps) of this epoch so far, in order
    data_fingerprint: Mapping[str, str]  # of everything that decides an epoch's order
    costs: Mapping[str, float] = field(default_factory=dict)  # of buckets, likewise; see costs.py
    epoch_is_over: bool = False  # then costs and data_fingerprint are the next epoch's
    recent_grad_norms: tuple[float, ...] = ()  # of the last accepted steps, the oldest first
    skipped_steps: int = 0  # since the run began
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # path: {bytes, sha256}
    left_out: tuple[str, ...] = ()  # the folders that a copy was made without

    @property
    def name(self) -> str:
        """The name of the checkpoint's folder, such as `epoch0-global_step200`."""
        return checkpoint_name(self.epoch, self.global_step)

    @property
    def size_bytes(self) -> int:
        """Size of all its files."""
        return sum(int(facts["bytes"]) for facts in self.files.values())


def checkpoint_name(epoch: int, global_step: int) -> str:
    """`epoch0-global_step200`."""
    return f"epoch{epoch}-global_step{global_step}"


def parse_manifest(text: str | bytes) -> Manifest:
    """The manifest in the text of a `checkpoint.json`; ValueError if it holds none."""
    try:
        values = json.loads(text)
        consumed = tuple((int(ranks), int(steps)) for ranks, steps in values["consumed"])
        left_out = tuple(str(name) for name in values.get("left_out", ()))
        norms = tuple(float(norm) for norm in values.get("recent_grad_norms", ()))
        lists = {"consumed": consumed, "left_out": left_out, "recent_grad_norms": norms}
        manifest = Manifest(**{**values, **lists})
        for facts in manifest.files.values():
            int(facts["bytes"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{MANIFEST} is not readable: {error}") from None
    return manifest


def missing_file(manifest: Manifest, sizes: Mapping[str, int]) -> str | None:
    """The first file that is not there in full, of files with these sizes in bytes."""
    for name, facts in manifest.files.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != int(facts["bytes"]):
            return f"{name} has {sizes[name]} of {facts['bytes']} bytes"
    return None
