"""Reading and writing small files so that no reader sees half of one."""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class RunDirError(ValueError):
    """Something about a run's folder is not as it must be; the message names the path."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file with one object; else RunDirError."""
    try:
        values = json.loads(_read_text(path))
    except ValueError as error:
        raise RunDirError(f"{path} is damaged, it is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise RunDirError(f"{path} is damaged, it holds no JSON object")
    return values


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        if error.errno != errno.ESTALE:  # replaced on its server since this machine last looked
            raise
        return path.read_text()


def write_json(
    path: Path, values: Mapping[str, Any], *, durable: bool = True, indent: int | None = 2
) -> None:
    """Write aside, then rename: no reader sees half a file; `durable` outlives a power cut.

    Large values take a tenth of the time without `indent`.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    with draft.open("w") as file:
        file.write(json.dumps(values, indent=indent) + "\n")
        if durable:
            file.flush()
            os.fsync(file.fileno())
    draft.replace(path)


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add one line for each row, in one write: all of them, or on a full disk none."""
    text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        if file.write(text) < len(text):
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def describe_file(path: Path) -> dict[str, Any]:
    """Size in bytes and checksum, as a manifest has them."""
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": checksum}


def sync_to_disk(path: Path) -> None:
    """Return when a file or folder would outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
