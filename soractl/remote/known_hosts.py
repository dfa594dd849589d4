"""The known_hosts files: read once as text, asked by name, appended to when a key is accepted."""

import base64
import binascii
import contextlib
import fnmatch
import hmac
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HostKey:
    kind: str
    key: str  # base64
    place: str  # file:line
    revoked: bool = False


class KnownHosts:
    """Keys by host name; the name is `host`, or `[host]:port` where the port is not 22."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._append_to = files[0] if files else Path(os.devnull)
        self._lock = threading.Lock()
        self._plain: dict[str, list[HostKey]] = {}
        self._hashed: list[tuple[bytes, bytes, HostKey]] = []
        self._patterns: list[tuple[list[str], HostKey]] = []
        self._authorities: list[list[str]] = []
        for file in files:
            for names, key, authority in _read(file):
                if authority:
                    self._authorities.append(names.lower().split(","))
                else:
                    self._remember(names, key)

    def keys_of(self, name: str) -> list[HostKey]:
        """Every key on record for a name: plain, hashed and by pattern."""
        name = name.lower()
        keys = list(self._plain.get(name, ()))
        # hmac.digest is one call into C: 24 nodes against 2,000 hashed lines take 0.1 s.
        keys += [
            key
            for salt, digest, key in self._hashed
            if hmac.digest(salt, name.encode(), "sha1") == digest
        ]
        return keys + [key for patterns, key in self._patterns if _matches(patterns, name)]

    def has_authority(self, name: str) -> bool:
        """A certificate authority is on record for a name, which only ssh understands."""
        return any(_matches(patterns, name.lower()) for patterns in self._authorities)

    def add(self, name: str, kind: str, key: str) -> None:
        """Accept a key: remember it, and append it to the first file, if that can be written."""
        # ssh goes on too where it cannot write the file.
        with self._lock, contextlib.suppress(OSError):
            self._remember(name, HostKey(kind, key, str(self._append_to)))
            self._append_to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._append_to.open("a+b") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    file.write(b"" if file.read(1) == b"\n" else b"\n")
                file.write(f"{name} {kind} {key}\n".encode())

    def _remember(self, names: str, key: HostKey) -> None:
        if names.startswith("|1|"):
            parts = names.split("|")
            try:
                salt, digest = base64.b64decode(parts[2]), base64.b64decode(parts[3])
            except (binascii.Error, IndexError):
                return
            self._hashed.append((salt, digest, key))
        elif any(mark in names for mark in "*?!"):
            self._patterns.append((names.lower().split(","), key))
        else:
            for name in names.lower().split(","):
                self._plain.setdefault(name, []).append(key)


def _read(file: Path) -> Iterator[tuple[str, HostKey, bool]]:
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return
    for number, line in enumerate(lines, start=1):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#"):
            continue
        key = HostKey(words[1], words[2], f"{file}:{number}", marker == "@revoked")
        yield words[0], key, marker == "@cert-authority"


def _matches(patterns: Sequence[str], name: str) -> bool:
    # In known_hosts [ and ] stand for themselves: they enclose a host that has a port.
    def fits(pattern: str) -> bool:
        return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))

    if any(pattern[0] == "!" and fits(pattern[1:]) for pattern in patterns if pattern):
        return False
    return any(pattern[0] != "!" and fits(pattern) for pattern in patterns if pattern)
