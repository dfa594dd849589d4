"""Source and destination of a sync: the operations that both need, and a folder of runs here."""

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from soractl.checkpoints.verification import (
    Facts,
    TransferEvent,
    broken_after_transfer,
    broken_files,
)
from soractl.errors import ExitCode, SoractlError
from soractl.files.changes import last_changes
from soractl.sync.locations import INCOMING, Location, incoming_path
from trainer.atomic_files import sync_to_disk
from trainer.checkpoint_dir import ANY_CHECKPOINT, Checkpoint
from trainer.manifest import MANIFEST, Manifest
from trainer.run_dir import RunDir, runs


@dataclass(frozen=True)
class CheckpointListing:
    """The checkpoints of one run at one moment."""

    complete: tuple[Checkpoint, ...] = ()  # oldest first
    incomplete: Mapping[str, str] = field(default_factory=dict)  # name: reason


class Store(Protocol):
    """Folder of runs at one end of a sync. `broken` and `damaged` return fault by file."""

    location: Location

    def runs(self) -> list[RunDir]:
        """Every run, oldest first."""

    def list(self, run: RunDir) -> CheckpointListing:
        """Checkpoints of a run."""

    def marks(self, run: RunDir) -> str:
        """Names of all runs and marks of this one's manifests, to compare; cheap to ask."""

    def holds(self, checkpoint: Checkpoint) -> bool:
        """True if the checkpoint still exists."""

    def broken(
        self,
        folder: Path,
        files: Mapping[str, Facts],
        transfer: TransferEvent,
        advance: Callable[[int], None],
    ) -> dict[str, str]:
        """Files that differ from their manifest after the transfer; they are deleted."""

    def damaged(self, folder: Path, files: Mapping[str, Facts]) -> dict[str, str]:
        """Files that differ from their manifest; none is changed."""

    def prepare_incoming(self, run: RunDir, kept: Collection[str]) -> None:
        """Create the incoming folders `kept`; delete other incoming folders: they are abandoned."""

    def publish(self, run: RunDir, manifest: Manifest) -> None:
        """Write the manifest of an incoming folder and give the folder its final name."""


class LocalStore:
    """A folder of runs on this machine."""

    def __init__(self, location: Location) -> None:
        self.location = location

    def runs(self) -> list[RunDir]:
        return runs(self.location.folder)

    def list(self, run: RunDir) -> CheckpointListing:
        incomplete = {path.name: why for path, why in run.incomplete().items()}
        return CheckpointListing(tuple(run.checkpoints()), incomplete)

    def marks(self, run: RunDir) -> str:
        manifests = run.checkpoints_folder.glob(f"{ANY_CHECKPOINT}/{MANIFEST}")
        return f"{[run.name for run in self.runs()]} {last_changes(sorted(manifests))}"

    def holds(self, checkpoint: Checkpoint) -> bool:
        return (checkpoint.path / MANIFEST).is_file()

    def broken(
        self,
        folder: Path,
        files: Mapping[str, Facts],
        transfer: TransferEvent,
        advance: Callable[[int], None],
    ) -> dict[str, str]:
        faults = broken_after_transfer(folder, files, transfer, advance)
        for name in faults:
            (folder / name).unlink(missing_ok=True)
        return faults

    def damaged(self, folder: Path, files: Mapping[str, Facts]) -> dict[str, str]:
        return broken_files(folder, files, lambda _: None)

    def prepare_incoming(self, run: RunDir, kept: Collection[str]) -> None:
        try:
            for name in kept:
                (run.checkpoints_folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SoractlError(
                f"{error.filename}: {error.strerror}", exit_code=ExitCode.FAILED
            ) from None
        for folder in run.checkpoints_folder.glob(f"{INCOMING}*"):
            if folder.name not in kept:
                shutil.rmtree(folder)

    def publish(self, run: RunDir, manifest: Manifest) -> None:
        incoming = incoming_path(run, manifest)
        for file in manifest.files:
            sync_to_disk(incoming / file)
        run.publish(incoming, manifest)
