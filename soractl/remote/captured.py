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


@dataclass
class Captured:
    stdout: Stream = field(default_factory=Stream)
    stderr: Stream = field(default_factory=Stream)
    exit_code: int | None = None

    def reading(
        self, read_stdout: Callable[[int], bytes], read_stderr: Callable[[int], bytes]
    ) -> list[threading.Thread]:
        """Threads that read both streams at once."""
        threads = [
            threading.Thread(target=self.stdout.read, args=(read_stdout,), daemon=True),
            threading.Thread(target=self.stderr.read, args=(read_stderr,), daemon=True),
        ]
        for thread in threads:
            thread.start()
        return threads
