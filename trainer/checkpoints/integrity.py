"""Checksums of a checkpoint's files, compared with its manifest before the files are read."""

import pickle
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.futures import Future

from trainer.atomic_files import describe_file
from trainer.checkpoint_dir import Checkpoint, read_checkpoint
from trainer.manifest import MANIFEST
from trainer.model.pretrained import WeightsError
from trainer.remedy import Remedy, with_remedy
from trainer.run_dir import run_of

_FILES_AT_ONCE = 8  # a core makes about 1 GB/s of checksums


class CheckedReader(dcp.FileSystemReader):
    """Reads an optimizer's shards, each after its checksum was compared."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint.optimizer)
        self._checkpoint = checkpoint

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read this rank's part, and so only the files that hold it."""
        places = (self.storage_data[item.storage_index] for item in plan.items)
        names = {f"optimizer/{place.relative_path}" for place in places}
        refuse_damaged(self._checkpoint, sorted(names))
        found: Future[None] = super().read_data(plan, planner)
        return found


def refuse_damaged(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """WeightsError for the first of these files that is not as it was written.

    It names the complete checkpoint before it, if there is one, also as its remedy.
    """
    with ThreadPoolExecutor(_FILES_AT_ONCE, "checksums") as threads:
        for fault in threads.map(partial(_fault, checkpoint), names):
            if fault:
                raise _with_earlier(fault, checkpoint)


def unreadable(checkpoint: Checkpoint, error: CheckpointException) -> BaseException:
    """A failed read of the optimizer as one sentence; other errors are returned unchanged."""
    cause = next(cause for cause, _ in error.failures.values())
    if isinstance(cause, OSError | EOFError | pickle.UnpicklingError):
        return _with_earlier(f"{checkpoint.optimizer} cannot be read: {cause}", checkpoint)
    return cause if isinstance(cause, WeightsError) else error


def source_of(weights: Path) -> Checkpoint | None:
    """The checkpoint that start weights lie in: its folder, a part of it, or a file of that."""
    for folder in (weights, *weights.parents[:2]):
        if (folder / MANIFEST).is_file():
            found = read_checkpoint(folder)
            return found if isinstance(found, Checkpoint) else None
    return None


def files_of(checkpoint: Checkpoint, weights: Path) -> list[str]:
    """The files that are read when `weights` gives the start weights."""
    part = "model" if weights == checkpoint.path else str(weights.relative_to(checkpoint.path))
    return [name for name in checkpoint.manifest.files if f"{name}/".startswith(f"{part}/")]


def _fault(checkpoint: Checkpoint, name: str) -> str:
    path, facts = checkpoint.path / name, checkpoint.manifest.files[name]
    try:
        if describe_file(path).items() >= facts.items():
            return ""
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return f"{path} is damaged: it is not what {MANIFEST} says"


def _with_earlier(fault: str, checkpoint: Checkpoint) -> WeightsError:
    run, step = run_of(checkpoint.path), checkpoint.manifest.global_step
    lacking = set(checkpoint.manifest.left_out)
    before = [
        other.path
        for other in run.checkpoints()
        if other.manifest.global_step < step and lacking.issuperset(other.manifest.left_out)
    ]
    if not before:
        return WeightsError(f"{fault}; no complete checkpoint is older than {checkpoint.name}")
    error = WeightsError(f"{fault}; the complete checkpoint before it is {before[-1]}")
    return with_remedy(error, Remedy(checkpoint=before[-1]))
