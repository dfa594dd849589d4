"""Files to which others append: what is new in them, in whole lines."""

import os
from pathlib import Path


class GrowingFile:
    """A file that is read as it grows; one that was replaced or emptied is read from its begin."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._number: int | None = None  # of the file that was read last

    def new_lines(self) -> list[bytes]:
        """The whole lines since the last call.

        None where it is not there, or not to be read just now.
        """
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                is_another = self._number is not None and self._number != found.st_ino
                if is_another or found.st_size < self._offset:
                    self._offset = 0
                self._number = found.st_ino
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            return []
        self._offset += len(whole) + len(newline)
        return whole.split(b"\n") if newline else []

    def go_on_from(self, offset: int) -> None:
        """Pass over what stands before an offset, in bytes."""
        self._offset = offset
