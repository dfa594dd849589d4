"""Writes checkpoints while training goes on: it stands still only for the copy to host memory."""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from trainer.checkpoint import (
    INDEX,
    TrainingState,
    WholeModel,
    optimizer_shards,
    stage_ema,
    stage_model,
)
from trainer.config import CheckpointConfig
from trainer.parallel import Ranks
from trainer.run_dir import Manifest, RunDir, describe_file, superseded, sync_to_disk

log = logging.getLogger("trainer")


class Saver:
    """Every rank writes its files beside training; rank 0 publishes when it has heard from all.

    A rank that cannot write says so: the draft is dropped then, and training goes on.
    """

    def __init__(self, run: RunDir, ranks: Ranks, config: CheckpointConfig) -> None:
        self._run, self._ranks, self._config = run, ranks, config
        self._group = dist.new_group(backend="gloo")  # its own, since it is used beside training
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._last_save = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since the last save began, or since the start."""
        return time.monotonic() - self._last_save

    def save(self, state: TrainingState, manifest: Manifest) -> None:
        """Copy the state to host memory and return; the last save is finished first."""
        self.wait()
        began = self._last_save = time.monotonic()
        draft = self._run.draft_path(manifest.epoch, manifest.global_step)
        if self._ranks.is_first:
            shutil.rmtree(draft, ignore_errors=True)
            for folder in ("model", "ema", "optimizer"):
                (draft / folder).mkdir(parents=True)
        dist.barrier(self._group)
        wholes = {
            draft / "model": stage_model(state, self._ranks),
            draft / "ema": stage_ema(state, self._ranks),
        }
        shards = dcp.async_save(
            optimizer_shards(state, self._ranks),
            checkpoint_id=draft / "optimizer",
            process_group=self._group,
        )
        self._writing = self._thread.submit(self._write, draft, wholes, shards, manifest)
        log.info("training stood still for %.2f s to save", time.monotonic() - began)

    def wait(self) -> None:
        """Return when the last save is on disk, or was given up."""
        if self._writing:
            self._writing.result()
            self._writing = None

    def close(self) -> None:
        """Finish the last save."""
        self.wait()
        self._thread.shutdown()

    def _write(
        self,
        draft: Path,
        wholes: Mapping[Path, WholeModel],
        shards: "Future[Any]",
        manifest: Manifest,
    ) -> None:
        files: dict[str, dict[str, Any]] = {}
        fault = None
        try:
            for folder, whole in wholes.items():
                self._write_whole(folder, whole)
        except OSError as error:
            fault = f"rank {self._ranks.rank}: {error}"
        shard_fault = shards.exception()  # awaited in any case: it uses the group that is used next
        fault = fault or (f"rank {self._ranks.rank}: {_root(shard_fault)}" if shard_fault else None)
        if not fault:
            files = {
                str(file.relative_to(draft)): describe_file(file)
                for file in self._mine(draft, wholes)
            }
        heard: list[Any] | None = [None] * self._ranks.world_size if self._ranks.is_first else None
        dist.gather_object((files, fault), heard, group=self._group)
        if heard:
            self._publish(draft, manifest, heard)

    def _write_whole(self, folder: Path, whole: WholeModel) -> None:
        for file, tensors in whole.mine.items():
            save_file(dict(tensors), folder / file, metadata={"format": "pt"})
            sync_to_disk(folder / file)
        if self._ranks.is_first:
            (folder / INDEX).write_text(json.dumps(whole.index, indent=2))
            sync_to_disk(folder / INDEX)

    def _mine(self, draft: Path, wholes: Mapping[Path, WholeModel]) -> Iterator[Path]:
        """The files that this rank wrote."""
        for folder, whole in wholes.items():
            yield from (folder / file for file in whole.mine)
            if self._ranks.is_first:
                yield folder / INDEX
        yield from (draft / "optimizer").glob(f"__{self._ranks.rank}_*")
        if self._ranks.is_first:
            yield draft / "optimizer" / ".metadata"

    def _publish(self, draft: Path, manifest: Manifest, heard: list[Any]) -> None:
        faults = [fault for _, fault in heard if fault]
        if faults:
            shutil.rmtree(draft, ignore_errors=True)
            log.error("checkpoint given up, training goes on: %s", faults[0])
            return
        files = {path: facts for files, _ in heard for path, facts in sorted(files.items())}
        checkpoint = self._run.publish(draft, replace(manifest, files=files))
        log.info("saved %s", checkpoint.name)
        kept = self._config.keep_last, self._config.keep_every_steps
        for old in superseded(self._run.checkpoints(), *kept):
            old.remove()


def _root(error: BaseException) -> str:
    """The first line of what lies at the bottom of torch's collected exceptions."""
    return str(error).strip().splitlines()[0]
