"""The step after an attempt in a job: decided by how it ended, not by the signal that came."""

from dataclasses import dataclass
from typing import Literal

Ended = Literal["ended well", "stopped", "failed"]
MOST_WITHOUT_CHECKPOINT = 3  # attempts in a row that end before their first save


@dataclass(frozen=True, kw_only=True)
class Ending:
    """An attempt's end, and the signals that its batch shell had."""

    outcome: Ended
    warned: bool = False  # USR1: a limit or a preemption comes
    asked_to_stop: bool = False  # `kill` or `stop` noted that the end is wanted
    terminated: bool = False  # TERM: the queue ends the job, and decides by itself what follows
    at_limit: bool = False  # it does so at the time limit, after which it never requeues
    without_checkpoint: int = 0  # attempts in a row, this one too, that added no checkpoint


@dataclass(frozen=True)
class Next:
    """Decision about the way back into the queue, and its reason."""

    requeue: bool
    reason: str
    gave_up: bool = False


def what_follows(end: Ending) -> Next:
    """The next thing that the batch shell does.

    A finished run is not requeued though the warning had come; one that was stopped, and
    nobody asked for it, is, also without a warning: that is how preemption ends a step. After
    TERM a preempted job is requeued by Slurm itself, and one that was cancelled must not be.
    """
    if end.outcome == "ended well":
        return Next(requeue=False, reason="it has ended")
    if end.asked_to_stop:
        return Next(requeue=False, reason="it was stopped on request")
    if end.outcome == "failed":
        return Next(requeue=False, reason="it failed")
    if end.terminated and not end.at_limit:
        return Next(requeue=False, reason="the queue ends the job")
    if end.without_checkpoint >= MOST_WITHOUT_CHECKPOINT:
        count = end.without_checkpoint
        reason = f"{count} attempts in a row ended without a new checkpoint"
        return Next(requeue=False, reason=reason, gave_up=True)
    if end.at_limit:
        return Next(requeue=True, reason="its time limit was reached")
    if end.warned:
        return Next(requeue=True, reason="a time limit or a preemption was announced")
    return Next(requeue=True, reason="its step was ended from outside")
