"""Claims: one of several evaluation servers samples a checkpoint; a dead one's work is taken."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from soractl.supervise.lease import BEAT_S, Lease, LeaseLostError


class Claims:
    """Claims of this server; other servers' are watched from look to look."""

    def __init__(self) -> None:
        self._leases: dict[Path, Lease] = {}

    @contextmanager
    def claimed(self, path: Path) -> Iterator[bool]:
        """True in the block if the work is ours; the claim is given back after it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lease = self._leases.setdefault(path, Lease(path))
        if not lease.take():
            yield False
            return
        over = threading.Event()
        beating = threading.Thread(target=_beat, args=(lease, over), daemon=True)
        beating.start()
        try:
            yield True
        finally:
            over.set()
            beating.join()
            with suppress(LeaseLostError):
                lease.check()
                path.unlink(missing_ok=True)
            del self._leases[path]


def _beat(lease: Lease, over: threading.Event) -> None:
    while not over.wait(BEAT_S):
        with suppress(LeaseLostError):
            lease.renew("sampling", "")
