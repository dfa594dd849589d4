"""Consensus of all ranks, between two steps, to save, or to save and leave."""

import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from trainer.distributed.parallel import group_on_hosts

SAVE = 1
_LEAVE_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopSaveConsensus:
    """Ranks vote after each step and read the result one step later, so that none waits for it."""

    def __init__(self, collective_timeout_s: float) -> None:
        # On the host, so that no GPU waits. No rank lags further here than the default group lets
        # it, so the limit is the same.
        self._group = group_on_hosts("consensus", collective_timeout_s)
        self._wish = self._voted = 0
        self._voting: tuple[torch.Tensor, Any] | None = None
        for number in _LEAVE_SIGNALS:
            signal.signal(number, self._note_signal)

    def request_save(self) -> None:
        """Ask all ranks to save; while a vote on that is under way, it is asked for already."""
        if self._voted != SAVE:
            self._wish = max(self._wish, SAVE)

    def after_step(self) -> int:
        """The decision of all ranks: 0, SAVE, or the number of the signal after which all leave."""
        agreed = self._result()
        vote = torch.tensor([self._wish])
        self._voted = self._wish
        self._wish = 0 if self._wish == SAVE else self._wish
        self._voting = vote, dist.all_reduce(vote, dist.ReduceOp.MAX, self._group, async_op=True)
        return agreed

    def _result(self) -> int:
        if self._voting is None:
            return 0
        vote, work = self._voting
        work.wait()
        return int(vote.item())

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._wish = number
