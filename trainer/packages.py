"""The packages that training needs, compared with those that are installed."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata

COLOSSALAI = "colossalai==0.5.0"  # not in the extra: its own list of needs fits nobody
TRAIN_EXTRA = "pip install 'soractl[train]'"


@contextmanager
def needed() -> Iterator[None]:
    """Imports of a program: where a package is missing or does not fit, one sentence ends it."""
    try:
        yield
    except ImportError:
        if sentence := fault(needs()):
            sys.exit(f"error: {sentence}")
        raise


def needs() -> list[str]:
    """Requirements of the `train` extra, as the installed soractl lists them, and ColossalAI."""
    try:
        listed = metadata.requires("soractl") or []
    except metadata.PackageNotFoundError:  # used from its folder alone
        listed = []
    extra = [line.partition(";")[0].strip() for line in listed if "extra == 'train'" in line]
    return [*extra, COLOSSALAI]


def fault(requirements: Iterable[str]) -> str | None:
    """The first requirement that is missing or has another version, with the command; else None.

    >>> fault(["no-such-package>=1"])
    "no-such-package>=1 is not installed: pip install 'soractl[train]'"
    """
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return f"packaging is not installed: {TRAIN_EXTRA}"
    for line in requirements:
        needed = Requirement(line)
        command = f"pip install --no-deps {line}" if line == COLOSSALAI else TRAIN_EXTRA
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            return f"{line} is not installed: {command}"
        if not needed.specifier.contains(version, prereleases=True):
            return f"{line} is needed, but {needed.name} {version} is installed: {command}"
    return None
