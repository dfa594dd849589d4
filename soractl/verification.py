"""Whether files are what a manifest says: sizes first, then checksums, with progress."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]  # a file's {bytes, sha256}
_CHUNK_BYTES = 2**22


def total_bytes(files: Mapping[str, Facts]) -> int:
    """What the files of a manifest hold together."""
    return sum(int(facts["bytes"]) for facts in files.values())


def broken_files(
    folder: Path, files: Mapping[str, Facts], advance: Callable[[int], None]
) -> dict[str, str]:
    """Path and fault of every file that is not as the manifest says; `advance` gets bytes read."""
    faults = ((name, _fault(folder / name, facts, advance)) for name, facts in files.items())
    return {name: fault for name, fault in faults if fault}


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
