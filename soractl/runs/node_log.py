"""A node's log: its last lines, and new ones as they come."""

import difflib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from soractl.errors import ExitCode, SoractlError
from soractl.runs.find import last_attempt
from soractl.runs.record import read_record
from trainer.run_dir import RunDir

POLL_S = 0.5

# Warnings and notes of torch, W&B and Python, which say nothing of how far a start is.
_NOISE = re.compile(
    r"(\[rank\d+\]:)?\[?[IW]\d{4} \d\d:\d\d:\d\d|wandb: |\S+:\d+: \w*Warning: |\s+warnings\.warn\("
)


def log_of(run: RunDir, node: str | None) -> tuple[Path, Callable[[], bool]]:
    """The newest attempt's log of a node, else the head node; and whether nothing more comes."""
    attempt = last_attempt(run)
    if attempt is None:
        raise SoractlError(f"{run.name} never started", exit_code=ExitCode.NOTHING_SUITABLE)
    names = [known.name for known in read_record(attempt).nodes]
    name = node or names[0]
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"its nodes are: {', '.join(names)}"
        raise SoractlError(f"{run.name} does not run on {name}", hint=hint)
    exits = (attempt.exit, attempt.node_exit(name))
    return attempt.node_log(name), lambda: any(path.exists() for path in exits)


def last_line(path: Path) -> str:
    """The last line of a log that says something, or nothing."""
    return next((line for line in reversed(tail(path)) if not _NOISE.match(line)), "")


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
