"""Following a supervised run over all its attempts; the supervisor acts, not the follower."""

import time

from soractl.launch.follow import follow
from soractl.remote.requests import Remote
from soractl.runs.events import EventKind, read_events
from soractl.runs.find import last_attempt
from soractl.runs.post_mortem import Outcome
from soractl.runs.progress import Progress
from soractl.supervise.lease import ActingSupervisor, read_holder
from soractl.terminal.meter import Display, Measured
from trainer.run_dir import AttemptDir, RunDir

POLL_S = 0.5
SHOWN = frozenset(
    (
        *(EventKind.SUSPECT, EventKind.HUNG, EventKind.CRASHED, EventKind.LOST, EventKind.BLIND),
        *(EventKind.RECOVERED, EventKind.KILLED, EventKind.RESTARTED, EventKind.WAITING),
        *(EventKind.QUARANTINED, EventKind.GAVE_UP),
    )
)


def follow_supervised(
    run: RunDir, attempt: AttemptDir, remote: Remote, display: Display
) -> tuple[AttemptDir, Outcome, Progress]:
    """Show progress and what the supervisor does until the run ends or the supervisor is gone."""
    acts = ActingSupervisor(run.supervisor)
    shown = len(read_events(run))
    telling = _Telling(run, display, shown)
    while True:
        outcome, last = follow(run, attempt, remote, telling, may_act=lambda: not acts())
        while acts() and (newest := last_attempt(run)) and newest.number == attempt.number:
            telling.tell()
            time.sleep(POLL_S)
        telling.tell()
        following = last_attempt(run)
        if following is None or following.number == attempt.number:
            return attempt, outcome, last
        attempt = following


def given_up(run: RunDir) -> str | None:
    """Reason for which the run's supervisor has given up, if it has."""
    holder = read_holder(run.supervisor)
    return holder.reason if holder and holder.ended and holder.state == "given up" else None


class _Telling:
    """A display that also says what the supervisor does."""

    def __init__(self, run: RunDir, display: Display, shown: int) -> None:
        self._run, self._display, self._shown = run, display, shown

    def show(self, measured: Measured) -> None:
        self.tell()
        self._display.show(measured)

    def say(self, text: str) -> None:
        self._display.say(text)

    def tell(self) -> None:
        events = read_events(self._run)
        for event in events[self._shown :]:
            if event.kind in SHOWN and event.by == "supervisor":
                where = f"{event.node}: " if event.node else ""
                self._display.say(f"{event.kind}  {where}{event.text}".rstrip())
        self._shown = len(events)
