"""Output of a program as it is kept: the beginning of each stream, and its exit code."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

KEEP_BYTES = 16 * 2**20  # of each stream: more than anybody reads, and 64 nodes of it fit memory


@dataclass
class Stream:
    """The first KEEP_BYTES of what a program prints, and how many bytes were not kept."""

    kept: bytearray = field(default_factory=bytearray)
    dropped: int = 0

    def read(self, read: Callable[[int], bytes]) -> None:
        """Reads to the end, so that the program is never stopped by a full pipe."""
        while chunk := read(2**16):
            room = max(0, KEEP_BYTES - len(self.kept))
            self.kept += chunk[:room]
            self.dropped += len(chunk) - min(room, len(chunk))

    @property
    def text(self) -> str:
        return self.kept.decode(errors="replace")


class AfterLine:
    """Reads a stream from behind one line: what a login file prints comes before it.

    >>> chunks = iter([b"Welcome to n1\\nbe", b"gin\\n4\\n", b""])
    >>> read = AfterLine(b"begin\\n", lambda size: next(chunks))
    >>> read(10), read.begun, read(10)
    (b'4\\n', True, b'')
    """

    def __init__(self, line: bytes, read: Callable[[int], bytes]) -> None:
        self._line, self._read = line, read
        self.before = b""
        self.begun = False

    def __call__(self, size: int) -> bytes:
        while not self.begun:
            chunk = self._read(size)
            if not chunk:
                return b""
            self.before, line, after = (self.before + chunk).partition(self._line)
            if line:
                self.begun = True
                if after:
                    return after
            else:
                self.before = self.before[-KEEP_BYTES:]
        return self._read(size)


@dataclass
class Captured:
    """Output of a program and its exit code; `begin` is the line before its own stdout, if any."""

    begin: bytes = b""
    stdout: Stream = field(default_factory=Stream)
    stderr: Stream = field(default_factory=Stream)
    exit_code: int | None = None
    _stdout: AfterLine | None = None

    @property
    def begun(self) -> bool:
        """The line `begin` came."""
        return self._stdout is not None and self._stdout.begun

    @property
    def before(self) -> str:
        """Text before the line `begin`."""
        return self._stdout.before.decode(errors="replace") if self._stdout else ""

    def reading(
        self, read_stdout: Callable[[int], bytes], read_stderr: Callable[[int], bytes]
    ) -> list[threading.Thread]:
        """Threads that read both streams at once."""
        if self.begin:
            read_stdout = self._stdout = AfterLine(self.begin, read_stdout)
        threads = [
            threading.Thread(target=self.stdout.read, args=(read_stdout,), daemon=True),
            threading.Thread(target=self.stderr.read, args=(read_stderr,), daemon=True),
        ]
        for thread in threads:
            thread.start()
        return threads
