"""Files compared with their manifest: sizes first, then checksums, with progress."""

import hashlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]  # a file's {bytes, sha256}
_CHUNK_BYTES = 2**20
_POLL_S = 0.1


class TransferAborted(Exception):
    """Raised to whoever waits for a transfer that was aborted."""


class TransferEvent:
    """The end of a transfer, for a thread that verifies files while they arrive."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._aborted = False

    def mark_complete(self) -> None:
        """All files have arrived."""
        self._over.set()

    def abort(self) -> None:
        """No more files will arrive."""
        self._aborted = True
        self._over.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """True if the transfer ended within `timeout_s`; TransferAborted if it was aborted."""
        over = self._over.wait(timeout_s)
        if self._aborted:
            raise TransferAborted
        return over


def total_bytes(files: Mapping[str, Facts]) -> int:
    """Size of all files of a manifest, in bytes."""
    return sum(int(facts["bytes"]) for facts in files.values())


def broken_files(
    folder: Path, files: Mapping[str, Facts], advance: Callable[[int], None]
) -> dict[str, str]:
    """Path and fault of every file that differs from the manifest; `advance` gets bytes read."""
    faults = ((name, _fault(folder / name, facts, advance)) for name, facts in files.items())
    return {name: fault for name, fault in faults if fault}


def broken_after_transfer(
    folder: Path,
    files: Mapping[str, Facts],
    transfer: "TransferEvent",
    advance: Callable[[int], None],
) -> dict[str, str]:
    """As `broken_files`, but each file is read as soon as it is there in full.

    It returns after the `transfer` of all; a file that was replaced meanwhile is read again.
    """
    results: dict[str, tuple[tuple[int, ...], str]] = {}
    while True:
        is_last_look = transfer.wait(_POLL_S)
        for name, facts in files.items():
            identity = _identity(folder / name)
            if (identity or is_last_look) and (name not in results or results[name][0] != identity):
                results[name] = identity, _fault(folder / name, facts, advance)
        if is_last_look:
            return {name: fault for name, (_, fault) in results.items() if fault}


def _identity(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _fault(file: Path, facts: Facts, advance: Callable[[int], None]) -> str:
    try:
        size = file.stat().st_size
        if size != facts["bytes"]:
            return f"has {size} of {facts['bytes']} bytes"
        if "sha256" in facts and _sha256(file, advance) != facts["sha256"]:
            return "has another checksum than its manifest"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""


def _sha256(file: Path, advance: Callable[[int], None]) -> str:
    checksum = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            checksum.update(chunk)
            advance(len(chunk))
    return checksum.hexdigest()
