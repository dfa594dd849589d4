"""Runs of another machine that are followed: a cheap look, and a copy as soon as one changes."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from soractl.remote.connections import Connections
from soractl.remote.openssh import socket_folder
from soractl.sync import evaluations
from soractl.sync.copy import Synced, copy, os_errors, plan_of, shell_of, stores_of
from soractl.sync.plan import Endpoints, SyncOptions, SyncPlan
from soractl.terminal.meter import Show

WHOLE_LOOK_S = 60.0  # between two looks that also fetch others' evaluations, and try again


@dataclass(frozen=True)
class _Look:
    """The last look at one run."""

    plan: SyncPlan
    marks: str | None  # those of before the plan; None: not asked for yet
    whole_s: float  # the moment of the last whole look
    is_done: bool  # every checkpoint was copied well


class Follower:
    """Runs that come from another machine; the connections to it are kept between looks."""

    def __init__(self, endpoints: Endpoints, clock: Callable[[], float] = time.monotonic) -> None:
        self._endpoints, self._clock = endpoints, clock
        self._stack = ExitStack()
        self._looks: dict[str, _Look] = {}
        self._shell: tuple[str, ...] = ()

    def __enter__(self) -> "Follower":
        remote = self._stack.enter_context(Connections(self._endpoints.ssh))
        self._source, self._destination = stores_of(self._endpoints, remote)
        self._folder = Path(self._stack.enter_context(socket_folder()))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fetch(
        self, options: SyncOptions, show: Show, on_plan: Callable[[SyncPlan], None]
    ) -> Synced | None:
        """Copy what is new of a run; None where nothing has changed since the last look.

        Such a look costs the other machine one request. Once a minute what other servers evaluated
        is fetched, and copies that arrived damaged are tried again. `on_plan` gets the plan before
        checkpoints are copied.
        """
        last = self._looks.pop(options.run, None)  # gone after a fault: the next look is whole
        with os_errors():
            marks = self._source.marks(last.plan.run) if last else None
            if last and marks == last.marks and not self._is_due(last):
                self._looks[options.run] = last
                return None
            if last and marks == last.marks and last.is_done:
                planned = replace(last.plan, copies=())
            else:
                planned = self._planned(options)
            is_same = last and last.plan.run == planned.run and not self._is_due(last)
            whole_s = last.whole_s if last and is_same else self._clock()
            if not is_same:
                planned.copy_of_run.path.mkdir(parents=True, exist_ok=True)
                evaluations.fetch(planned)  # before a checkpoint is here that has a result there
            on_plan(planned)
            synced = copy(planned, self._source, self._destination, show)
        self._looks[options.run] = _Look(planned, marks, whole_s, not synced.broken)
        return synced

    def _is_due(self, last: _Look) -> bool:
        return self._clock() - last.whole_s >= WHOLE_LOOK_S

    def _planned(self, options: SyncOptions) -> SyncPlan:
        planned = plan_of(options, self._endpoints, self._source, self._destination)
        self._shell = self._shell or shell_of(planned, self._folder)
        return replace(planned, link=replace(planned.link, shell=self._shell))
