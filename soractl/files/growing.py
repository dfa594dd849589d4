"""Files to which others append: what is new in them, in whole lines."""

import os
from pathlib import Path
from typing import BinaryIO

KEPT_BYTES = 2**16  # of what was read last: to know again a file that lost its end


class GrowingFile:
    """A file that is read as it grows, each byte once.

    One that was replaced or emptied is read from its beginning. Where an append was taken back
    (`append_whole` on a full disk), what stands before it is not read again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number: int | None = None  # of the file that was read last
        self._offset = 0
        self._last = b""  # bytes before the offset
        self._rest = b""  # those after the last newline

    def new_lines(self) -> list[bytes]:
        """The whole lines since the last call; none where it is not there, or cannot be read."""
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                is_another = self._number is not None and self._number != found.st_ino
                self._number = found.st_ino
                if is_another or not self._is_known(file, found.st_size):
                    self.go_on_from(0)
                file.seek(self._offset)
                new = file.read()
        except OSError:
            return []
        self._offset += len(new)
        self._last = (self._last + new)[-KEPT_BYTES:]
        *lines, self._rest = (self._rest + new).split(b"\n")
        return lines

    def go_on_from(self, offset: int) -> None:
        """Pass over what stands before an offset, in bytes."""
        self._offset, self._last, self._rest = offset, b"", b""

    def _is_known(self, file: BinaryIO, size: int) -> bool:
        """The bytes that were read stand in the file, but for an end that was taken back."""
        lost = self._offset - size
        if lost <= 0:
            return True
        last = self._last[:-lost]
        file.seek(size - len(last))
        if not last or file.read(len(last)) != last:
            return False
        rest = self._rest[:-lost] if lost < len(self._rest) else last.rpartition(b"\n")[2]
        self._offset, self._last, self._rest = size, last, rest
        return True
