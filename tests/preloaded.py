"""Libraries that stand before libc: a shared folder whose server is busy, a clock that is off."""

import shutil
import subprocess
from pathlib import Path

from tests.missing import give_up


def compiled(name: str, folder: Path) -> Path:
    """The library of a C file beside this module, such as `preloaded_clock`."""
    library = folder / f"{name}.so"
    if shutil.which("cc") is None:
        give_up("no C compiler")
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-w", "-o", library, source, "-ldl"], check=True
    )
    return library


def failing_opens(library: Path, error: int, every: int, *ends: str) -> dict[str, str]:
    """Variables with which each so many-th open() of a file with such an end fails."""
    values = {"FILES": ":".join(ends), "ERRNO": error, "EVERY": every}
    return _failing(library, values)


def no_locks(library: Path) -> dict[str, str]:
    """Variables with which the file system has no locks (ENOSYS)."""
    return _failing(library, {"LOCKS": 1})


def clock_ahead(library: Path, seconds: int) -> dict[str, str]:
    """Variables with which the time of day is ahead by seconds; behind, where they are negative."""
    return {"LD_PRELOAD": str(library), "CLOCK_OFFSET_S": str(seconds)}


def _failing(library: Path, values: dict) -> dict[str, str]:
    found = {f"FAILING_{name}": str(value) for name, value in values.items()}
    return {"LD_PRELOAD": str(library), **found}
