"""Origins of the runs that `eval` watches: folders here, or on another machine."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from soractl.errors import ExitCode, SoractlError
from soractl.remote.nodes import Node, this_machine
from soractl.sync import evaluations
from soractl.sync.follow import Follower
from soractl.sync.plan import SyncOptions, SyncPlan, find_endpoints
from soractl.terminal.meter import Display, Measured
from trainer.run_dir import RunDir

END_S = 1.0  # that a thread may take to end; with the program it ends anyhow


class LocalRuns:
    """Runs in folders that this machine writes to."""

    def __init__(self, runs: Iterable[RunDir]) -> None:
        self.runs = self.ready = tuple(runs)

    def fetch(self) -> None:
        """Nothing: the checkpoints are here."""

    def follow(self, every_s: float) -> None:
        """Nothing: they come here by themselves."""

    def wait(self, seconds: float) -> None:
        """Wait for the next look."""
        time.sleep(seconds)

    def send(self, run: RunDir) -> None:
        """Nothing: the videos are where they belong."""

    def show(self, run: RunDir) -> None:
        """Nothing: the first ones too."""

    def place(self, run: RunDir) -> tuple[Node, str]:
        """The machine and the folder of the run itself."""
        return this_machine(), str(run.path.absolute())

    def close(self) -> None:
        """Nothing is open."""


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
    _arriving: set[RunDir] = field(default_factory=set)
    _unsent: set[RunDir] = field(default_factory=set)
    _stack: ExitStack = field(default_factory=ExitStack)  # of the follower
    _follower: Follower | None = None
    _sending: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)
    _begun: "queue.SimpleQueue[RunDir | None]" = field(default_factory=queue.SimpleQueue)
    _news: threading.Event = field(default_factory=threading.Event)  # something was looked at
    _waits: bool = False
    _over: threading.Event = field(default_factory=threading.Event)
    _fault: BaseException | None = None  # of a thread
    _faults: dict[str, str] = field(default_factory=dict)  # shown ones, of work that fails

    @property
    def runs(self) -> tuple[RunDir, ...]:
        """Copies of those runs that have something to copy."""
        return tuple(self._plans)

    @property
    def ready(self) -> tuple[RunDir, ...]:
        """Copies but those of which several checkpoints come just now, the newest first."""
        return tuple(run for run in self.runs if run not in self._arriving)

    def fetch(self) -> None:
        """Copy what is new there; send what could not be sent before."""
        self._look()
        self._send_unsent()

    def follow(self, every_s: float) -> None:
        """From now on fetch every few seconds and send first videos, beside the sampling."""
        for work in (partial(self._keep_fetching, every_s), self._keep_sending):
            thread = threading.Thread(target=self._noting_faults, args=(work,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def wait(self, seconds: float) -> None:
        """Wait until the next look has ended; a thread's error is raised."""
        self._waits = True
        self._news.wait(seconds)
        self._waits = False
        self._news.clear()
        if self._fault:
            raise self._fault
        self._send_unsent()  # not beside the sampling: a result never comes before its videos

    def send(self, run: RunDir) -> None:
        """Send what was made of a run; where that fails it is sent after a later look."""
        self._unsent.add(run)
        if self._tolerating(f"send {run.name}", partial(self._send, evaluations.send, run)):
            self._unsent.discard(run)

    def show(self, run: RunDir) -> None:
        """Send the videos so far, beside the sampling of more."""
        if self._threads and self._begun.empty():
            self._begun.put(run)

    def place(self, run: RunDir) -> tuple[Node, str]:
        """The machine and the folder of the run itself, there."""
        planned = self._plans[run]
        path = planned.run.path
        return planned.endpoints.source.node, str(path if path.is_absolute() else f"~/{path}")

    def close(self) -> None:
        """End the threads and the connections."""
        self._over.set()
        self._begun.put(None)
        self._stack.close()
        for thread in self._threads:
            thread.join(END_S)

    def _keep_fetching(self, every_s: float) -> None:
        while not self._over.is_set():
            self._look()
            self._news.set()
            self._over.wait(every_s)

    def _keep_sending(self) -> None:
        while (run := self._begun.get()) is not None:
            self._tolerating(f"show {run.name}", partial(self._send, evaluations.send_begun, run))

    def _noting_faults(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again in `wait`
            self._fault = error
            self._news.set()

    def _look(self) -> None:
        for name in self.names:
            self._tolerating(f"fetch {name}", partial(self._fetch, name))

    def _send_unsent(self) -> None:
        for run in sorted(self._unsent, key=lambda run: run.name):
            self.send(run)

    def _fetch(self, name: str) -> None:
        options = SyncOptions(
            run=name, source=self.source, destination=str(self.copies), ema_only=self.ema_only
        )
        if self._follower is None:
            follower = Follower(find_endpoints(options, self.environ))
            self._follower = self._stack.enter_context(follower)
        try:
            synced = self._follower.fetch(options, self._show_copy, self._planned)
        finally:
            self._arriving.clear()
        for checkpoint, faults in synced.broken.items() if synced else ():
            for file, fault in faults.items():
                self.display.say(f"{checkpoint} was not copied: {file} {fault}")

    def _planned(self, planned: SyncPlan) -> None:
        run = planned.copy_of_run
        if run not in self._plans and run.evaluation_results():
            self._unsent.add(run)  # by a server that ended before it sent them
        if len(planned.copies) > 1:
            self._arriving.add(run)
        self._plans[run] = planned

    def _show_copy(self, measured: Measured) -> None:
        if self._waits or not self._threads:  # else the sampling is shown
            self.display.show(measured)

    def _send(self, do: Callable[[SyncPlan], None], run: RunDir) -> None:
        with self._sending:
            do(self._plans[run])

    def _tolerating(self, work: str, do: Callable[[], None]) -> bool:
        """True if it was done; a fault of the way or of the moment is shown once, and passes."""
        try:
            do()
        except SoractlError as error:
            if self._over.is_set():  # its connection was closed
                return False
            if not self.watches or error.exit_code == ExitCode.BAD_REQUEST:
                raise
            if self._faults.get(work) != str(error):
                self._faults[work] = str(error)
                self.display.say(f"{error}; trying again")
            return False
        self._faults.pop(work, None)
        return True
