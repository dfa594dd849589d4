"""Last changes of files, for whoever does again what depends on them."""

from collections.abc import Iterable
from pathlib import Path


def last_changes(files: Iterable[Path]) -> list[tuple[Path, int]]:
    """Each file with the time of its last change, in ns; 0 for one that was removed just now."""
    return [(file, _changed_ns(file)) for file in files]


def _changed_ns(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
