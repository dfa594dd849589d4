"""Writes checkpoints while training goes on: it stands still only for the copy to host memory."""

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.device_mesh import init_device_mesh

from trainer.atomic_files import describe_file
from trainer.checkpoint_dir import superseded
from trainer.checkpoints.checkpoint import (
    INDEX,
    HostMemory,
    Layout,
    Snapshot,
    TrainingState,
    save_optimizer,
    take_snapshot,
    whole_models,
    write_index,
    write_tensors,
)
from trainer.config import CheckpointConfig
from trainer.distributed.parallel import Ranks, group_on_hosts
from trainer.manifest import Manifest
from trainer.run_dir import RunDir

# Ranks wait here for the slowest writer while training goes on; a full network file system takes
# longer than a collective may.
SAVE_LIMIT_S = 1800.0

log = logging.getLogger("trainer")


class Saver:
    """Every rank writes its files beside training; rank 0 publishes when it has gathered from all.

    A rank that cannot write says so: the draft is dropped then, and training goes on.
    """

    def __init__(self, run: RunDir, ranks: Ranks, config: CheckpointConfig) -> None:
        self._run, self._ranks, self._config = run, ranks, config
        self._group = group_on_hosts("save", SAVE_LIMIT_S)  # its own: it is used beside training
        self._mesh = init_device_mesh("cpu", (ranks.world_size,))
        self._memory = HostMemory()
        # a new thread begins on GPU 0, where every other rank of the node would take memory too
        on_own_gpu = partial(torch.cuda.set_device, ranks.device) if ranks.device.index else None
        self._thread = ThreadPoolExecutor(1, "checkpoint", on_own_gpu)
        self._writing: Future[None] | None = None
        self._last_save = time.monotonic()
        self.given_up = ""  # why the last save is no checkpoint; known to the first rank

    @property
    def idle_s(self) -> float:
        """Seconds since the last save began, or since the start."""
        return time.monotonic() - self._last_save

    def preallocate_host_memory(self, state: TrainingState) -> None:
        """Get the host memory of a save, or the first one would make training wait for it."""
        take_snapshot(state, self._ranks, self._memory)

    def save(self, state: TrainingState, manifest: Manifest) -> None:
        """Copy the state to host memory and return; the last save is finished first."""
        began = self._last_save = time.monotonic()
        self.wait()
        waited = time.monotonic() - began
        snapshot = take_snapshot(state, self._ranks, self._memory)
        self._writing = self._thread.submit(self._write, snapshot, manifest)
        stood = time.monotonic() - began
        log.info(
            "training stood still for %.2f s to save, %.2f s of them for the last save to end",
            *(stood, waited),
        )

    def wait(self) -> None:
        """Return when the last save is on disk, or was given up."""
        if self._writing:
            self._writing.result()
            self._writing = None

    def ends_within(self, seconds: float) -> bool:
        """Wait for the last save, for a rank that has failed; False while it goes on."""
        return not self._writing or bool(wait([self._writing], seconds).done)

    def close(self) -> None:
        """Finish the last save."""
        self.wait()
        self._thread.shutdown()

    def _write(self, snapshot: Snapshot, manifest: Manifest) -> None:
        draft = self._run.draft_path(manifest.epoch, manifest.global_step)
        fault = None
        # After a fault the rest is gone through too: the other ranks wait for this one's part.
        for file, tensors in whole_models(snapshot, self._ranks, self._group):
            fault = fault or _fault_in(write_tensors, draft / file, tensors)
        for folder, layout in snapshot.layouts.items() if self._ranks.is_first else ():
            fault = fault or _fault_in(write_index, draft / folder, layout)
        optimizer = draft / "optimizer"
        later = _fault_in(save_optimizer, optimizer, snapshot, self._mesh, self._group)
        files: dict[str, dict[str, Any]] = {}
        fault = fault or later or _fault_in(self._describe, draft, snapshot.layouts, files)
        gathered: list[Any] | None = (
            [None] * self._ranks.world_size if self._ranks.is_first else None
        )
        dist.gather_object((files, fault), gathered, group=self._group)
        if gathered:
            self._publish(draft, manifest, gathered)

    def _describe(
        self, draft: Path, layouts: Mapping[str, Layout], files: dict[str, dict[str, Any]]
    ) -> None:
        """Add to `files` what the manifest says of those that this rank wrote."""
        mine = list((draft / "optimizer").glob(f"__{self._ranks.rank}_*"))
        for folder, layout in layouts.items():
            mine += [draft / folder / file for file in layout.files_of(self._ranks.rank)]
        if self._ranks.is_first:
            mine += [draft / folder / INDEX for folder in layouts]
            mine.append(draft / "optimizer" / ".metadata")
        files.update({str(file.relative_to(draft)): describe_file(file) for file in mine})

    def _publish(self, draft: Path, manifest: Manifest, gathered: list[Any]) -> None:
        files = {path: facts for files, _ in gathered for path, facts in sorted(files.items())}
        fault = next((fault for _, fault in gathered if fault), None)
        fault = fault or _fault_in(self._run.publish, draft, replace(manifest, files=files))
        if fault:
            shutil.rmtree(draft, ignore_errors=True)
            log.error("checkpoint %s given up, training goes on: %s", manifest.name, fault)
            self.given_up = f"{manifest.name} could not be saved: {fault}"
            return
        self.given_up = ""
        log.info("saved %s", manifest.name)
        if fault := _fault_in(self._remove_superseded):
            log.warning("an old checkpoint is still there: %s", fault)

    def _remove_superseded(self) -> None:
        kept = self._config.keep_last, self._config.keep_every_steps
        for old in superseded(self._run.checkpoints(), *kept):
            old.remove()


def _fault_in(write: Callable[..., object], *arguments: Any) -> str | None:
    """The error of a write, in one line."""
    try:
        write(*arguments)
    except CheckpointException as error:
        cause = next(cause for cause, _ in error.failures.values())
        return str(cause).splitlines()[0]
    except (OSError, SafetensorError) as error:
        return str(error)
    return None
