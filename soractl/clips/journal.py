"""Journal of a command: one JSON line for each clip that is done, so that a kill loses little."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from soractl.errors import ExitCode, SoractlError
from soractl.files.lock import acquire


class Journal:
    """Entries of a file by the path of the clip; the last one of a clip counts.

    Only one process has it open at a time. A last line that a crash left half written is dropped.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.entries: dict[str, dict[str, Any]] = {}
        self._stream: IO[bytes]

    def __enter__(self) -> Self:
        try:
            self._stream = self.file.open("ab+")
        except OSError as error:
            raise SoractlError(f"{self.file}: {error.strerror}") from None
        try:
            acquire(self._stream, f"{self.file}: another command is writing to it")
            self._read()
        except BaseException:
            self._stream.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # `add` has reported what could not be written
            self._stream.close()

    def add(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Write entries so that they outlive this process; SoractlError if the disk is full."""
        lines = []
        for entry in entries:
            self.entries[entry["path"]] = dict(entry)
            lines.append(f"{json.dumps(entry)}\n".encode())
        try:
            self._stream.write(b"".join(lines))
            self._stream.flush()
        except OSError as error:
            raise SoractlError(
                f"{self.file}: {error.strerror}",
                hint="free some space and continue: clips in this file are not read again",
                exit_code=ExitCode.FAILED,
            ) from None

    def forget(self, which: Callable[[Mapping[str, Any]], bool]) -> None:
        """Treat matching entries as not done; the file keeps them until new ones replace them."""
        self.entries = {path: entry for path, entry in self.entries.items() if not which(entry)}

    def _read(self) -> None:
        self._stream.seek(0)
        whole = 0
        for line in self._stream:
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                self.entries[entry["path"]] = entry
            except (ValueError, TypeError, KeyError):
                raise SoractlError(
                    f"{self.file}: not a journal of clips: byte {whole} cannot be read",
                    hint=f"rm {self.file} starts again from the first clip",
                ) from None
            whole += len(line)
        self._stream.truncate(whole)
