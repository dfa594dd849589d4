"""Owner of a run, when that is another user, whose processes cannot be seen."""

import os
import pwd
from pathlib import Path

from soractl.errors import ExitCode, SoractlError
from trainer.run_dir import RunDir

UNSEEN = "whose processes cannot be seen"
NOT_TO_START = "; another user cannot start an attempt of it"


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


def refuse_another_users(run: RunDir, why: str, hint: str | None = None) -> None:
    """SoractlError, exit code 5, that names the other user whose run it is."""
    if owner := other_owner(run.path):
        raise SoractlError(
            f"{run.name} belongs to {owner}{why}",
            hint=hint or f"ask {owner}; `soractl launch STAGE` begins a run of your own",
            exit_code=ExitCode.REFUSED,
        )
