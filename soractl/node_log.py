"""A node's log: its last lines, and new ones as they come."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_S = 0.5


def last_line(path: Path) -> str:
    """The last line of a log that is not empty, or nothing."""
    lines = tail(path)
    return lines[-1] if lines else ""


def tail(path: Path, *, last_bytes: int = 2**16) -> list[str]:
    """The last lines of a log that are not empty; none when there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - last_bytes))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    # A progress bar overwrites its line again and again.
    lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
    return [line for line in lines if line.strip()]


def follow(path: Path, ended: Callable[[], bool]) -> Iterator[str]:
    """The lines that are added from now on, until nothing more can come."""
    offset = path.stat().st_size if path.exists() else 0
    rest = b""
    while True:
        last_time = ended()
        if path.exists():
            with path.open("rb") as file:
                file.seek(offset)
                new = file.read()
            offset += len(new)
            *lines, rest = (rest + new).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if last_time:
            return
        time.sleep(POLL_S)
