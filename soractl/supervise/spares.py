"""Spares that wait: checked every ten minutes, so that none is chosen that could not take a place.

A spare runs no launcher before it is chosen: an agent that waits in a rendezvous would close it.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from soractl.supervise.act import UNUSABLE

EVERY_S = 600.0
Unfit = Mapping[str, str]  # why, by node


class Spares:
    """The last check of the spares; each is made in a thread of its own."""

    def __init__(
        self,
        examine: Callable[[], Unfit],
        on_change: Callable[[str, str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.unfit: Unfit = {}
        self._examine, self._on_change, self._clock = examine, on_change, clock
        self._asking: Future[Unfit] | None = None
        self._asked_s: float | None = None

    def look(self) -> None:
        """Take in a check that has ended, and begin the next when it is time."""
        if self._asking is not None and self._asking.done():
            self._take_in(self._asking.result())
            self._asking = None
        now_s = self._clock()
        if self._asking is None and (self._asked_s is None or now_s - self._asked_s >= EVERY_S):
            self._asking, self._asked_s = Future(), now_s
            threading.Thread(target=self._ask, args=(self._asking,), daemon=True).start()

    def check(self) -> None:
        """Check them now, as after a start that was refused."""
        asked: Future[Unfit] = Future()
        self._ask(asked)
        self._asked_s = self._clock()
        self._take_in(asked.result())

    def _ask(self, answer: "Future[Unfit]") -> None:
        """A spare that cannot be asked leaves the last answer as it is."""
        try:
            answer.set_result(self._examine())
        except (*UNUSABLE, OSError):
            answer.set_result(self.unfit)
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            answer.set_exception(error)

    def _take_in(self, unfit: Unfit) -> None:
        for node, why in unfit.items():
            if self.unfit.get(node) != why:
                self._on_change(node, f"this spare cannot take a place: {why}")
        for node in self.unfit:
            if node not in unfit:
                self._on_change(node, "this spare can take a place again")
        self.unfit = dict(unfit)
