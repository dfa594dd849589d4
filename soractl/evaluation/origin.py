"""Origins of the runs that `eval` watches: folders here, or on another machine."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from soractl.errors import ExitCode, SoractlError
from soractl.remote.nodes import Node, this_machine
from soractl.sync import evaluations
from soractl.sync.copy import rounds
from soractl.sync.plan import SyncOptions, SyncPlan
from soractl.terminal.meter import Display
from trainer.run_dir import RunDir

LOOK_S = 10.0  # between two looks at another machine

Say = Callable[[str], None]


class LocalRuns:
    """Runs in folders that this machine writes to."""

    def __init__(self, runs: Iterable[RunDir]) -> None:
        self.runs = tuple(runs)

    def fetch(self) -> None:
        """Nothing: the checkpoints are here."""

    def send(self, run: RunDir) -> None:
        """Nothing: the videos are where they belong."""

    def place(self, run: RunDir) -> tuple[Node, str]:
        """The machine and the folder of the run itself."""
        return this_machine(), str(run.path.absolute())


@dataclass
class RemoteRuns:
    """Runs on another machine: checkpoints are copied here, what was made of them goes back."""

    source: str  # HOST:DIR, a folder of runs
    names: Sequence[str]
    copies: Path  # a folder of runs here
    ema_only: bool
    environ: Mapping[str, str]
    display: Display
    watches: bool  # for ever, so that a machine that is not reached now is asked again
    _plans: dict[RunDir, SyncPlan] = field(default_factory=dict)
    _unsent: set[RunDir] = field(default_factory=set)
    _looked_s: float | None = None

    @property
    def runs(self) -> tuple[RunDir, ...]:
        """The copies, as soon as something was copied."""
        return tuple(self._plans)

    def fetch(self) -> None:
        """Copy what is new there, at most every ten seconds; send what could not be sent before."""
        now_s = time.monotonic()
        if self._looked_s is not None and now_s - self._looked_s < LOOK_S:
            return
        for name in self.names:
            self._tolerating(partial(self._fetch, name))
        for run in sorted(self._unsent, key=lambda run: run.name):
            self.send(run)
        self._looked_s = time.monotonic()

    def send(self, run: RunDir) -> None:
        """Send what was made of a run; where that fails it is sent after a later look."""
        self._unsent.add(run)
        if self._tolerating(partial(evaluations.send, self._plans[run])):
            self._unsent.discard(run)

    def place(self, run: RunDir) -> tuple[Node, str]:
        """The machine and the folder of the run itself, there."""
        planned = self._plans[run]
        path = planned.run.path
        return planned.endpoints.source.node, str(path if path.is_absolute() else f"~/{path}")

    def _fetch(self, name: str) -> None:
        options = SyncOptions(
            run=name, source=self.source, destination=str(self.copies), ema_only=self.ema_only
        )
        (synced,) = rounds(
            options,
            self.environ,
            lambda: nullcontext(self.display),
            every_s=None,
            log=lambda line: None,
        )
        for checkpoint, faults in synced.broken.items():
            for file, fault in faults.items():
                self.display.say(f"{checkpoint} was not copied: {file} {fault}")
        run = synced.plan.copy_of_run
        self._plans[run] = synced.plan
        evaluations.fetch(synced.plan)

    def _tolerating(self, do: Callable[[], None]) -> bool:
        """True if it was done; a fault of the way or of the moment is shown, and passes."""
        try:
            do()
        except SoractlError as error:
            if not self.watches or error.exit_code == ExitCode.BAD_REQUEST:
                raise
            self.display.say(f"{error}; trying again")
            return False
        return True
