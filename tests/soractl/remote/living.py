"""Programs that still run on this machine."""

import contextlib
import time
from pathlib import Path


def assert_none_sleep(*seconds):
    """No `sleep` of these lasts, or none does in a moment."""
    limit = time.monotonic() + 10
    while commands_with(*seconds) and time.monotonic() < limit:
        time.sleep(0.05)
    assert commands_with(*seconds) == []


def commands_with(*words):
    """Command lines of living processes that have one of the words as an argument."""
    return [command for command in commands() if set(words) & set(command)]


def commands():
    """The command lines of all processes, word by word."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
