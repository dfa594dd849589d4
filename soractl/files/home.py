"""Home: paths below it, also for an account that has none."""

from pathlib import Path

NOWHERE = Path("/dev/null")  # no folder: who writes below it gets an OSError, as on a full disk


def in_home(path: Path) -> Path:
    """A path with its `~` replaced; below /dev/null where the account has no home.

    >>> in_home(Path("~nobody-of-that-name/.cache"))
    PosixPath('/dev/null/.cache')
    """
    try:
        return path.expanduser()
    except RuntimeError:
        return NOWHERE.joinpath(*path.parts[1:])
