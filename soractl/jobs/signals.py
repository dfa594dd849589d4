"""Signals of a job's batch shell, and how the one that announces an end reaches rank 0.

Of the signals, the batch shell has USR1 before a limit or a preemption, INT from `soractl kill`,
and TERM when the queue ends the job.
"""

import signal
import threading
import time
from contextlib import AbstractContextManager

from soractl.processes.scan import find
from soractl.processes.selection import Selection
from soractl.remote.nodes import this_machine
from soractl.remote.requests import Remote, Request
from soractl.runs.find import last_attempt
from soractl.runs.record import read_record
from trainer.run_dir import RunDir

TICK_S = 0.5
SCAN_S = 15.0


class Signals:
    """Signals that the batch shell has had."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.terminated_at: float | None = None  # by the monotonic clock
        for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    @property
    def wants_a_save(self) -> bool:
        """Rank 0 is to be asked to save and leave."""
        return bool(self.seen & {signal.SIGUSR1, signal.SIGINT})

    def _note(self, number: int, _: object) -> None:
        self.seen.add(number)
        if number == signal.SIGTERM and self.terminated_at is None:
            self.terminated_at = time.monotonic()


class Relay(AbstractContextManager["Relay"]):
    """A thread that asks rank 0 of an attempt to save and leave, once a signal wants that."""

    def __init__(self, run: RunDir, here: str, signals: Signals, remote: Remote) -> None:
        self._run, self._here, self._signals, self._remote = run, here, signals, remote
        self._is_over = threading.Event()
        self.is_asked = False
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self.is_asked and not self._is_over.wait(TICK_S):
            if self._signals.wants_a_save:
                self.is_asked = ask_rank_0(self._run, self._here, self._remote)


def ask_rank_0(run: RunDir, here: str, remote: Remote) -> bool:
    """Ask rank 0 of the newest attempt to save and leave; False while there is none.

    `here`: the queue's name of this node, which usually is the one of rank 0.
    """
    attempt = last_attempt(run)
    if attempt is None:
        return False
    head = read_record(attempt).nodes[0]
    head = this_machine() if head.name == here else head
    [found] = find([head], remote, Selection(run_id=str(run.path)), deadline_s=SCAN_S)
    ranks = [one for one in found.processes if one.role == "rank" and one.rank == 0]
    kill = Request(("kill", "-TERM", *(str(one.pid) for one in ranks)))
    return bool(ranks) and remote(head, kill, SCAN_S).ok
