"""Owner of a run, when that is another user, whose processes cannot be seen."""

import os
import pwd
from pathlib import Path


def other_owner(path: Path) -> str | None:
    """Name of the user who made a file or folder; None for ourselves, root's look, or no file."""
    try:
        owner = path.stat().st_uid
    except OSError:
        return None
    if os.geteuid() in (0, owner):
        return None
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"user {owner}"
