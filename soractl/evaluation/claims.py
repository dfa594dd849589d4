"""Claims: one of several evaluation servers samples a checkpoint; a dead one's work is taken."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from soractl.supervise.lease import BEAT_S, LEASE_S, Lease, LeaseLostError


class Claims:
    """Claims of this server; other servers' are watched from look to look."""

    def __init__(self, *, lease_s: float = LEASE_S, beat_s: float = BEAT_S) -> None:
        self._lease_s, self._beat_s = lease_s, beat_s
        self._leases: dict[Path, Lease] = {}

    @contextmanager
    def claimed(self, path: Path) -> Iterator[bool]:
        """True in the block if the work is ours; the claim is given back after it.

        OSError where nothing can be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        lease = self._leases.setdefault(path, Lease(path, lease_s=self._lease_s))
        if not lease.take():
            yield False
            return
        over = threading.Event()
        beating = threading.Thread(target=_beat, args=(lease, over, self._beat_s), daemon=True)
        beating.start()
        try:
            yield True
        finally:
            over.set()
            beating.join()
            with suppress(LeaseLostError, OSError):  # one that stays is taken in half a minute
                lease.check()
                path.unlink(missing_ok=True)
            del self._leases[path]


def _beat(lease: Lease, over: threading.Event, every_s: float) -> None:
    while not over.wait(every_s):
        with suppress(LeaseLostError):
            lease.renew("sampling", "")
