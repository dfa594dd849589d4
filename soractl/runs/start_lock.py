"""The lock that a command holds while it starts an attempt of a run."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from soractl.errors import ExitCode, SoractlError
from soractl.files.lock import locked
from soractl.runs.owner import other_owner
from trainer.run_dir import RunDir


@contextmanager
def start_lock(run: RunDir) -> Iterator[None]:
    """Held by whoever starts an attempt of this run; SoractlError while another command does."""
    if owner := other_owner(run.path):
        raise SoractlError(
            f"{run.name} belongs to {owner}; another user cannot start an attempt of it",
            exit_code=ExitCode.REFUSED,
        )
    # A reader tries the lock for a moment: see is_starting.
    with locked(run.lock, f"{run.name} is being started by another command", wait_s=0.5):
        yield


def is_starting(run: RunDir) -> bool:
    """True while a command starts an attempt of this run; also asked by who may only read it."""
    try:
        with run.lock.open("r") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no start yet, not ours to read, or a file system without locks
        return False
    return False
