"""A checkpoint's folder: its names, when it is complete, and who reads it."""

import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from trainer.atomic_files import file_time, read_small
from trainer.manifest import MANIFEST, Manifest, missing_file, parse_manifest

ANY_CHECKPOINT = "epoch*-global_step*"  # glob of the folders' names
READER_MARK = ".read-by-"  # with the reader's name: a file that keeps a checkpoint from removal
DRAFT = ".draft-"  # with the checkpoint's name: being written
REPLACED = ".replaced-"  # with the checkpoint's name: until another of that name took its place
REMOVED = ".removed-"  # with the checkpoint's name: being deleted
_READER_MARK_HOLDS_S = 86_400
_NAME = re.compile(r"epoch(\d+)-global_step(\d+)")


@dataclass(frozen=True)
class Incomplete:
    """A folder that is no complete checkpoint, such as `epoch0-global_step200` with a file less."""

    path: Path
    reason: str  # such as "no checkpoint.json"
    is_unknown: bool = False  # it cannot be read just now, and may be complete


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """`epoch0-global_step200`."""
        return self.path.name

    @property
    def model(self) -> Path:
        """The weights as they are trained: safetensors files and an index."""
        return self.path / "model"

    @property
    def ema(self) -> Path:
        """The averaged weights, fp32: safetensors files and an index."""
        return self.path / "ema"

    @property
    def optimizer(self) -> Path:
        """Each rank's fp32 masters and moments."""
        return self.path / "optimizer"

    def reader_mark(self, reader: str) -> Path:
        """The file that keeps it from being removed while `reader` reads it."""
        return self.path / f"{READER_MARK}{reader}"

    @contextmanager
    def being_read(self, reader: str = "") -> Iterator[None]:
        """Keep it from being removed while it is read, by this process or by a named reader.

        Where nothing can be written there is no mark, and FileNotFoundError if it is gone already.
        """
        mark = self.reader_mark(reader or f"{socket.gethostname()}-{os.getpid()}")
        try:
            mark.touch()
        except FileNotFoundError:
            raise
        except OSError:  # read-only, others' folder, or a full disk
            yield
            return
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def readers(self) -> list[str]:
        """Marks of those who read it; one of more than a day was left by a crash."""
        found = []
        marks = list(self.path.glob(f"{READER_MARK}*"))
        now_s = file_time(self.path.parent) if marks else None
        for mark in marks:
            with suppress(FileNotFoundError):  # its reader is done just now
                if now_s is None or now_s - mark.stat().st_mtime < _READER_MARK_HOLDS_S:
                    found.append(mark.name.removeprefix(READER_MARK))
        return sorted(found)

    def remove(self) -> None:
        """Delete it; at no moment does half of it stand under its name."""
        removed = self.path.with_name(f"{REMOVED}{self.name}")
        shutil.rmtree(removed, ignore_errors=True)  # what a crash left of it
        self.path.rename(removed)
        shutil.rmtree(removed)


def read_checkpoint(path: Path) -> Checkpoint | Incomplete:
    """A folder as a complete checkpoint, or the reason that it is none."""
    try:
        manifest = parse_manifest(read_small(path / MANIFEST))
    except FileNotFoundError:
        return Incomplete(path, f"no {MANIFEST}")
    except ValueError as error:
        return Incomplete(path, str(error))
    except OSError as error:
        return Incomplete(path, f"{MANIFEST} cannot be read: {error.strerror}", is_unknown=True)
    sizes = {}
    for name in manifest.files:
        try:
            found = (path / name).stat()
        except (FileNotFoundError, NotADirectoryError):  # it may be removed at this moment
            continue
        except OSError as error:
            return Incomplete(path, f"{name} cannot be seen: {error.strerror}", is_unknown=True)
        if S_ISREG(found.st_mode):
            sizes[name] = found.st_size
    fault = missing_file(manifest, sizes)
    return Incomplete(path, fault) if fault else Checkpoint(path, manifest)


def step_and_epoch(name: str) -> tuple[int, int] | None:
    """(global_step, epoch) of a checkpoint's folder, in which order they sort; None of others."""
    match = _NAME.fullmatch(name)
    return (int(match[2]), int(match[1])) if match else None


def superseded(
    checkpoints: Sequence[Checkpoint], keep_last: int, keep_every_steps: int
) -> list[Checkpoint]:
    """The checkpoints (oldest first) that may go; `keep_last` = 0 keeps all."""
    return [
        checkpoint
        for checkpoint in checkpoints[: -keep_last if keep_last else 0]
        if not (keep_every_steps and checkpoint.manifest.global_step % keep_every_steps == 0)
        and not checkpoint.readers()
    ]
