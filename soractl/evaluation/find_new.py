"""Checkpoints that a preset has not sampled yet, in the order in which they are taken."""

from dataclasses import dataclass
from pathlib import Path

from trainer.atomic_files import RunDirError, describe_file, read_json
from trainer.checkpoint_dir import Checkpoint
from trainer.manifest import MANIFEST
from trainer.run_dir import RunDir


@dataclass(frozen=True)
class Item:
    """One checkpoint to sample by one preset."""

    run: RunDir
    checkpoint: Checkpoint
    preset: str
    digest: str  # of the checkpoint's manifest: a step that was saved anew is another checkpoint

    @property
    def key(self) -> tuple[Path, str]:
        """This save of the checkpoint, among all runs."""
        return self.checkpoint.path, self.digest

    @property
    def folder(self) -> Path:
        """Folder of its videos."""
        return self.run.evaluation(self.preset, self.checkpoint.manifest.global_step)

    @property
    def result(self) -> Path:
        """Written last: without it the checkpoint is not evaluated."""
        return self.run.evaluation_result(self.preset, self.checkpoint.manifest.global_step)

    @property
    def progress(self) -> Path:
        """The list of the videos that are there so far."""
        step = self.checkpoint.manifest.global_step
        return self.run.evaluation_progress(self.preset, step)

    def __str__(self) -> str:
        return f"{self.run.name} step {self.checkpoint.manifest.global_step}"


def find_new(
    run: RunDir, preset: str, weights: str, *, newest_first: bool, first_of_epoch: bool
) -> list[Item]:
    """Complete checkpoints without a result; a reader's half copy is not complete."""
    found = [one for one in run.checkpoints() if weights not in one.manifest.left_out]
    if first_of_epoch:
        found = _first_of_each_epoch(found)
    items = [Item(run, one, preset, digest_of(one)) for one in found]
    new = [item for item in items if not is_done(item)]
    return new[::-1] if newest_first else new


def passed_over(run: RunDir, weights: str) -> dict[Path, str]:
    """Folders of checkpoints that are never new, and why: incomplete, or without the weights."""
    broken = run.incomplete()
    lacking = {
        one.path: f"it was copied without `{weights}`"
        for one in run.checkpoints()
        if weights in one.manifest.left_out
    }
    for one in run.unknown():  # which may be complete, and then is new
        broken.pop(one.path, None)
    return {**broken, **lacking}


def digest_of(checkpoint: Checkpoint) -> str:
    """The checksum of a checkpoint's manifest; empty if the checkpoint was removed just now."""
    try:
        return str(describe_file(checkpoint.path / MANIFEST)["sha256"])
    except OSError:
        return ""


def is_done(item: Item) -> bool:
    """A result of this very checkpoint is there."""
    try:
        return bool(read_json(item.result)["digest"] == item.digest)
    except (OSError, RunDirError, KeyError):
        return False


def _first_of_each_epoch(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """The first of each epoch, and the newest of all."""
    firsts: dict[int, Checkpoint] = {}
    for one in checkpoints:
        firsts.setdefault(one.manifest.epoch, one)
    newest = checkpoints[-1:]
    return [one for one in checkpoints if one in (*firsts.values(), *newest)]
