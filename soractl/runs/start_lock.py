"""The lock that a command holds while it starts an attempt of a run."""

from contextlib import AbstractContextManager

from soractl.errors import SoractlError
from soractl.files.lock import locked
from trainer.run_dir import RunDir


def start_lock(run: RunDir) -> AbstractContextManager[int]:
    """Held by whoever starts an attempt of this run; SoractlError while another command does."""
    return locked(run.lock, f"{run.name} is being started by another command")


def is_starting(run: RunDir) -> bool:
    """Whether a command is starting an attempt of this run just now."""
    try:
        with start_lock(run):
            return False
    except SoractlError:
        return True
