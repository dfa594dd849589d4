"""Whether files are what a manifest says: sizes first, then checksums, with progress."""

import hashlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]  # a file's {bytes, sha256}
_CHUNK_BYTES = 2**20
_LOOK_AGAIN_S = 0.1


class GivenUp(Exception):
    """What was waited for will not come."""


class Arrival:
    """Whether all files of a folder have come."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._given_up = False

    def is_complete(self) -> None:
        """They have."""
        self._over.set()

    def give_up(self) -> None:
        """They will not."""
        self._given_up = True
        self._over.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether they had all come within that time; GivenUp if they will not."""
        over = self._over.wait(timeout_s)
        if self._given_up:
            raise GivenUp
        return over


def total_bytes(files: Mapping[str, Facts]) -> int:
    """What the files of a manifest hold together."""
    return sum(int(facts["bytes"]) for facts in files.values())


def broken_files(
    folder: Path, files: Mapping[str, Facts], advance: Callable[[int], None]
) -> dict[str, str]:
    """Path and fault of every file that is not as the manifest says; `advance` gets bytes read."""
    faults = ((name, _fault(folder / name, facts, advance)) for name, facts in files.items())
    return {name: fault for name, fault in faults if fault}


def broken_on_arrival(
    folder: Path,
    files: Mapping[str, Facts],
    arrival: "Arrival",
    advance: Callable[[int], None],
) -> dict[str, str]:
    """As `broken_files`, but each file is read as soon as it is there in full.

    It returns after the `arrival` of all; a file that was replaced meanwhile is read again.
    """
    seen: dict[str, tuple[tuple[int, ...], str]] = {}
    while True:
        is_last_look = arrival.wait(_LOOK_AGAIN_S)
        for name, facts in files.items():
            identity = _identity(folder / name)
            if (identity or is_last_look) and (name not in seen or seen[name][0] != identity):
                seen[name] = identity, _fault(folder / name, facts, advance)
        if is_last_look:
            return {name: fault for name, (_, fault) in seen.items() if fault}


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
