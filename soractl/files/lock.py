"""Locks on files: one command at a time; a lock ends with the process that holds it."""

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from soractl.errors import ExitCode, SoractlError

POLL_S = 0.1
_NO_LOCKS_HERE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # a shared folder mounted without


@contextmanager
def locked(file: Path, refusal: str, *, wait_s: float = 0.0) -> Iterator[int]:
    """Hold the lock of a file, whose descriptor it yields.

    SoractlError with `refusal`, exit code 5, if another process still holds it after `wait_s`.
    """
    with file.open("a") as stream:
        acquire(stream, refusal, wait_s=wait_s)
        yield stream.fileno()


def acquire(stream: IO[Any], refusal: str, *, wait_s: float = 0.0) -> None:
    """Lock an open file until it is closed; a file system without locks grants it.

    SoractlError with `refusal`, exit code 5, if another process still holds it after `wait_s`.
    """
    give_up = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                raise SoractlError(refusal, exit_code=ExitCode.REFUSED) from None
            time.sleep(POLL_S)
        except OSError as error:
            if error.errno in _NO_LOCKS_HERE:
                return None
            raise
