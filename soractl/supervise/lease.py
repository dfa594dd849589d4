"""Lease: one supervisor of a run acts, and another takes over when it shows no life any more.

A lease is a file that `link()` puts there, which is atomic on network file systems too. Its holder
renews it with a rising beat; whoever wants it takes it after the beat stood still for `LEASE_S`
of its own monotonic clock, so clocks of two machines are never compared.

Reading and replacing are two calls. A holder that is frozen between them and wakes up after its
lease was taken may write its old token back; so no action relies on the file alone: each one asks
`check` first, and `act` refuses an attempt that is not the newest.
"""

import errno
import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from soractl.errors import SoractlError
from trainer.atomic_files import RunDirError, file_time, read_json, write_json

LEASE_S = 30.0
BEAT_S = 5.0


class LeaseLostError(SoractlError):
    """Another supervisor acts for the run now."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Contents of a lease: who holds it, and what the run was last seen to do."""

    token: str
    beat: int
    host: str
    pid: int
    watch_only: bool = False
    state: str = ""
    reason: str = ""
    ended: bool = False  # the supervisor has left; the file says with which state

    def as_json(self) -> dict[str, Any]:
        """As the file has it."""
        return asdict(self)


@dataclass
class Sight:
    """Observation of a holder by one's own clock."""

    clock: Callable[[], float] = time.monotonic
    lease_s: float = LEASE_S
    _seen: tuple[str, int] | None = None
    _seen_s: float = 0.0

    def is_overdue(self, other: Holder) -> bool:
        """True once the beat has stood still for longer than the lease holds."""
        seen = (other.token, other.beat)
        if seen != self._seen:
            self._seen, self._seen_s = seen, self.clock()
        return self.clock() - self._seen_s > self.lease_s


@dataclass
class Lease:
    """This process's claim on the lease of a run."""

    path: Path
    watch_only: bool = False
    clock: Callable[[], float] = time.monotonic
    lease_s: float = LEASE_S
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    _beat: int = 0

    def __post_init__(self) -> None:
        self._sight = Sight(self.clock, self.lease_s)

    def take(self) -> bool:
        """Take the lease if it is free, ended, or its holder has shown no life for long enough."""
        other = read_holder(self.path)
        if other is not None and not other.ended and not self._sight.is_overdue(other):
            return False
        if other is not None and not self._evict(other):
            return False
        draft = self.path.with_name(f".{self.path.name}.{self.token}.draft")
        write_json(draft, self._holder("", "").as_json())
        try:
            with suppress(OSError):
                os.link(draft, self.path)
            # Over NFS a reply may be lost: the number of links says if it was done.
            return draft.stat().st_nlink == 2
        finally:
            draft.unlink()

    def renew(self, state: str, reason: str, *, ended: bool = False) -> None:
        """Show life and the run's state; LeaseLostError if the lease is another's."""
        with suppress(OSError):  # a full disk, a lost folder: another may take over
            self.check()
            self._beat += 1
            write_json(self.path, self._holder(state, reason, ended=ended).as_json(), durable=False)

    def check(self) -> None:
        """LeaseLostError unless this process holds the lease; OSError where that is not seen."""
        if not self.path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path.parent))
        with suppress(FileNotFoundError):
            self.path.stat()
        holder = read_holder(self.path)
        if holder is None or holder.token != self.token:
            raise LeaseLostError("another supervisor acts for the run now")

    def _evict(self, other: Holder) -> bool:
        """Move a dead holder's lease away, unless that is another's by now."""
        aside = self.path.with_name(f".{self.path.name}.{self.token}.aside")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return True
        moved = read_holder(aside)
        if moved is not None and (moved.token, moved.beat) != (other.token, other.beat):
            with suppress(OSError):  # it lives: give it back, unless somebody took its place
                os.link(aside, self.path)
            aside.unlink()
            return False
        aside.unlink()
        return True

    def _holder(self, state: str, reason: str, *, ended: bool = False) -> Holder:
        return Holder(
            token=self.token,
            beat=self._beat,
            host=socket.gethostname(),
            pid=os.getpid(),
            watch_only=self.watch_only,
            state=state,
            reason=reason,
            ended=ended,
        )


class ActingSupervisor:
    """Answers whether a supervisor acts for a run, to one who asks again and again."""

    def __init__(self, path: Path) -> None:
        self._path, self._sight = path, Sight()

    def __call__(self) -> bool:
        """A supervisor that may act has not ended, and shows life."""
        holder = read_holder(self._path)
        if holder is None or holder.ended or holder.watch_only:
            return False
        return not self._sight.is_overdue(holder)


def age_s(path: Path) -> float | None:
    """Seconds since the last beat by the clock that dates files, if that can be asked."""
    now_s = file_time(path.parent)
    with suppress(OSError):
        return None if now_s is None else max(0.0, now_s - path.stat().st_mtime)
    return None


def read_holder(path: Path) -> Holder | None:
    """Holder of the lease, also one that has ended; None if nobody ever did."""
    try:
        return Holder(**read_json(path))
    except (OSError, RunDirError, TypeError):
        return None
