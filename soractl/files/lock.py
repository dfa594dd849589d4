"""One command at a time: a lock on a file, which ends with the process that holds it."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soractl.errors import ExitCode, SoractlError

_NO_LOCKS_HERE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # a shared folder mounted without


@contextmanager
def locked(file: Path, refusal: str) -> Iterator[None]:
    """Hold the lock of a file; SoractlError with `refusal` if another process holds it."""
    with file.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SoractlError(refusal, exit_code=ExitCode.REFUSED) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
        yield
