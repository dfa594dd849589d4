"""Output files of the `data` commands: checked before the work, written aside, then renamed."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from soractl.errors import ExitCode, SoractlError


def check_file(path: Path) -> None:
    """SoractlError if a file cannot be written there."""
    if path.is_dir():
        raise SoractlError(f"{path} is a folder", hint="give the name of a file")
    if not path.parent.is_dir():
        raise SoractlError(f"{path}: no folder {path.parent}", hint=f"mkdir -p {path.parent}")
    _try_writing(path, path.parent)


def check_folder(path: Path) -> None:
    """SoractlError if a folder is not there and cannot be made, or nothing can be written in it."""
    there = nearest(path)
    if not there.is_dir():
        raise SoractlError(f"{path}: {there} is a file", hint="give the name of a folder")
    _try_writing(path, there)


def nearest(path: Path) -> Path:
    """A path, or the first one above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A file to write first, which then takes the other's place, or is removed.

    No reader sees half a file, and a crash or a full disk leaves the old one.
    """
    draft = path.with_name(f".{path.stem}.draft{path.suffix}")
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SoractlError(f"{path}: {reason}", exit_code=ExitCode.FAILED) from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _try_writing(path: Path, folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SoractlError(f"{path}: cannot write in {folder}: {error.strerror}") from None
