"""Reading and writing small files so that no reader sees half of one."""

import errno
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

PAUSES_S = (0.0, 0.05, 0.2)
# ESTALE: replaced on its server since this machine last looked. The others: a server that is busy.
_MOMENTARY = (errno.ESTALE, errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT)


class RunDirError(ValueError):
    """Something about a run's folder is not as it must be; the message names the path."""


def file_time(folder: Path) -> float | None:
    """Time now by the clock that dates a folder's files, perhaps a file server's.

    None where nothing can be written: no other machine's clock says how old a file is.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as now:
            return os.fstat(now.fileno()).st_mtime
    except OSError:
        return None


def folder_time(folder: Path) -> float:
    """Time now as `file_time` has it, by this machine's clock where nothing can be written.

    All times in a run's folder that are compared are of this clock, since several machines write
    there. (Heartbeats alone have the head node's own clock, for whoever asks
    that node how late it is.)
    """
    now_s = file_time(folder)
    return time.time() if now_s is None else now_s


class FolderClock:
    """The clock of a folder's files, asked once; from then on by what passes on this machine."""

    def __init__(self, folder: Path) -> None:
        self._ahead_s = folder_time(folder) - time.monotonic()

    def __call__(self) -> float:
        """Seconds since 1970, also after this machine's time of day was put right."""
        return time.monotonic() + self._ahead_s


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file with one object; else RunDirError."""
    try:
        values = json.loads(read_small(path))
    except ValueError as error:
        raise RunDirError(f"{path} is damaged, it is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise RunDirError(f"{path} is damaged, it holds no JSON object")
    return values


def read_small(path: Path) -> bytes:
    """The bytes of a small file, tried again where a shared folder fails for a moment.

    OSError if it goes on, and at once for a file that is not there or not to be read.
    """
    for pause_s in PAUSES_S:
        try:
            return path.read_bytes()
        except OSError as error:
            if error.errno not in _MOMENTARY:
                raise
        time.sleep(pause_s)
    return path.read_bytes()


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
    """Add one line for each row, in one write: all of them, or on a full disk none.

    They begin a line of their own, also behind half a line that a power cut left.
    """
    data = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    append_whole(path, data if _ends_a_line(path) else b"\n" + data)


def is_disk_full(error: OSError) -> bool:
    """There is no room left, or none within the user's quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def append_whole(path: Path, data: bytes) -> None:
    """Add bytes to a file in one write: all of them, or on a full disk none and OSError."""
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        if file.write(data) < len(data):
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _ends_a_line(path: Path) -> bool:
    """True for a file that is empty, or not there."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            return file.read(1) in (b"", b"\n")
    except FileNotFoundError:
        return True


class KeptRoom(AbstractContextManager["KeptRoom"]):
    """Room on the disk for a JSON file that may have to be written when the disk is full.

    It is given back at the end of `with`.
    """

    def __init__(self, path: Path, size_bytes: int = 16 * 2**10) -> None:
        self._path, self._size_bytes = path, size_bytes
        self._draft = path.with_name(f".{path.name}.room")
        with suppress(OSError):
            self._draft.write_bytes(b" " * size_bytes)

    def write_json(self, values: Mapping[str, Any]) -> None:
        """Write the file, as `write_json` does where the room is too small or was not there."""
        data = json.dumps(values, indent=2).encode() + b"\n"
        if len(data) > self._size_bytes or not self._draft.exists():
            write_json(self._path, values)
            return
        with self._draft.open("r+b") as file:
            file.write(data.ljust(self._size_bytes))
            file.flush()
            os.fsync(file.fileno())
        self._draft.replace(self._path)

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._draft.unlink(missing_ok=True)


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
