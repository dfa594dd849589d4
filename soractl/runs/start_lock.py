"""The lock that a command holds while it starts an attempt of a run; readers ask, and take none."""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from soractl.errors import ExitCode, SoractlError
from soractl.runs.owner import NOT_TO_START, refuse_another_users
from trainer.run_dir import RunDir

_WHOLE_FILE = "hhqqi4x"  # struct flock: type, whence, start, length, pid
_HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES)


@contextmanager
def start_lock(run: RunDir) -> Iterator[None]:
    """Held by whoever starts an attempt of this run; SoractlError while another command does.

    OSError where nothing can be written.
    """
    refuse_another_users(run, NOT_TO_START)
    with run.lock.open("a") as stream:
        try:
            _record_lock(stream, fcntl.F_OFD_SETLK)
        except OSError as error:  # a file system without locks grants it
            if error.errno in _HELD_BY_ANOTHER:
                raise SoractlError(
                    f"{run.name} is being started by another command", exit_code=ExitCode.REFUSED
                ) from None
        yield


def is_starting(run: RunDir) -> bool:
    """True while a command starts an attempt of this run; also asked by who may only read it."""
    try:
        with run.lock.open("rb") as stream:
            return _record_lock(stream, fcntl.F_OFD_GETLK) != fcntl.F_UNLCK
    except OSError:  # no start yet, not ours to read, or a file system without locks
        return False


def _record_lock(stream: IO[Any], command: int) -> int:
    """The kind of lock in the way of a write lock on the file: F_UNLCK for none.

    A lock of the open file, not of the process (fcntl(2), F_OFD_SETLK): another node that mounts
    the folder sees it too, and it can be asked for without taking it, as flock cannot.
    """
    asked = struct.pack(_WHOLE_FILE, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind: int = struct.unpack(_WHOLE_FILE, fcntl.fcntl(stream, command, asked))[0]
    return kind
