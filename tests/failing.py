"""Calls of a program that fail now and then, as on a shared folder whose server is busy."""

import shutil
import subprocess
from pathlib import Path

from tests.missing import give_up

SOURCE = Path(__file__).with_name("failing_calls.c")


def compiled(folder: Path) -> Path:
    """The library to preload."""
    library = folder / "failing.so"
    if shutil.which("cc") is None:
        give_up("no C compiler")
    flags = ("-shared", "-fPIC", "-O1", "-w")
    subprocess.run(["cc", *flags, "-o", library, SOURCE, "-ldl"], check=True)
    return library


def opens(library: Path, error: int, every: int, *ends: str) -> dict[str, str]:
    """Variables with which each so many-th open() of a file with such an end fails."""
    values = {"FILES": ":".join(ends), "ERRNO": error, "EVERY": every}
    return _preloaded(library, values)


def locks(library: Path) -> dict[str, str]:
    """Variables with which the file system has no locks (ENOSYS)."""
    return _preloaded(library, {"LOCKS": 1})


def _preloaded(library: Path, values: dict) -> dict[str, str]:
    found = {f"FAILING_{name}": str(value) for name, value in values.items()}
    return {"LD_PRELOAD": str(library), **found}
