"""Copies complete checkpoints to another folder of runs, so that none is ever seen half there."""

import fcntl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from soractl.checkpoints.verification import Arrival
from soractl.errors import ExitCode, SoractlError
from soractl.remote.connections import Connections
from soractl.runs.find import choose_run
from soractl.sync import rsync
from soractl.sync.plan import Copy, SyncPlan, Way, Wishes, find_way, plan
from soractl.sync.rsync import Link, SourceGone
from soractl.sync.stores import LOCK_WAIT_S, End, Here, Place, There, incoming_path, locked
from soractl.terminal.transfer import Show, Transfer
from trainer.checkpoint_dir import Checkpoint
from trainer.run_dir import RunDir

Display = Callable[[], AbstractContextManager[Show]]
Say = Callable[[str], None]
LOOK_AGAIN_S = 0.1
DAMAGED_AT_SOURCE = "is damaged at the source"


@dataclass
class Synced:
    """What became of a plan."""

    plan: SyncPlan
    copied: list[Copy] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)  # removed at the source before they were copied
    broken: dict[str, dict[str, str]] = field(default_factory=dict)  # checkpoint: file: fault
    elapsed_s: float = 0.0

    @property
    def exit_code(self) -> ExitCode:
        """1 when a copy is not what its manifest says."""
        return ExitCode.FAILED if self.broken else ExitCode.OK


def dry_run(wishes: Wishes, environ: Mapping[str, str]) -> SyncPlan:
    """The plan alone."""
    with _ends(find_way(wishes, environ)) as (way, source, destination), _os_faults():
        return _look(wishes, way, source, destination)


def rounds(
    wishes: Wishes, environ: Mapping[str, str], display: Display, *, every_s: float | None, say: Say
) -> Iterator[Synced]:
    """One round, or one every so many seconds for ever; then what is wrong for now is only said."""
    found = find_way(wishes, environ)
    while True:
        try:
            with _ends(found) as (way, source, destination), _os_faults():
                planned = _look(wishes, way, source, destination)
                say(f"{planned.run.name} from {way.source} to {way.destination}")
                with display() as show:
                    synced = copy(planned, source, destination, show)
            yield synced
        except SoractlError as fault:
            if every_s is None or fault.exit_code == ExitCode.BAD_REQUEST:
                raise
            say(f"{fault}; trying again in {every_s:g} s")
        if every_s is None:
            return
        time.sleep(every_s)


def copy(planned: SyncPlan, source: End, destination: End, show: Show) -> Synced:
    """Copy, check at the destination and publish; exit code 5 while another sync is at work."""
    began = time.monotonic()
    with (
        _only_one(planned.lock, planned.way.destination) as lock,
        tempfile.TemporaryDirectory(prefix="soractl-", ignore_cleanup_errors=True) as folder,
    ):
        link = replace(planned.link, shared=Path(folder))
        kept = {incoming_path(planned.copy_of_run, item.manifest).name for item in planned.copies}
        destination.make_room(planned.copy_of_run, kept)
        synced = _Copier(planned, source, destination, show, lock).run(link)
    synced.elapsed_s = time.monotonic() - began
    return synced


class _Copier:
    """Copies one checkpoint while the one before it is still checked and published."""

    def __init__(
        self, planned: SyncPlan, source: End, destination: End, show: Show, lock: int
    ) -> None:
        self._plan, self._source, self._destination = planned, source, destination
        self._show, self._lock = show, lock
        self._synced = Synced(planned)
        self._done_bytes = 0
        self._began = time.monotonic()

    def run(self, link: Link) -> Synced:
        """Everything in its order; at a fault, what had come in full is published before."""
        self._link = link
        with suppress(SourceGone):  # the copy of a run is of use without its description
            self._link = rsync.run(self._plan.description, link, lambda _: None)
        before: _Finishing | None = None
        try:
            for number, item in enumerate(self._plan.copies, start=1):
                what = f"{item.checkpoint.name} ({number} of {len(self._plan.copies)})"
                before = self._one(item, what, before)
        except SoractlError:
            self._settle(before)
            raise
        self._settle(before)
        return self._synced

    def _one(self, item: Copy, what: str, before: "_Finishing | None") -> "_Finishing | None":
        """Copy one; returns what is now still to be finished."""
        finishing = _Finishing(item, self._plan.copy_of_run, self._destination)
        try:
            if not self._fetch(item, what):
                finishing.arrival.give_up()
                return before
            self._settle(before)  # first, so that the oldest gets its name first
        except BaseException:
            finishing.arrival.give_up()
            raise
        finishing.arrival.is_complete()
        return finishing

    def _fetch(self, item: Copy, what: str) -> bool:
        """Bring one into its incoming folder; False when the source has removed it."""

        def tell(done: int) -> None:
            total = self._done_bytes + done
            rate = total / (time.monotonic() - self._began)
            self._show(Transfer(what, total, self._plan.bytes, rate))

        try:
            with self._reading(item.checkpoint):
                self._link = rsync.run(item.copying, self._link, tell, held=[self._lock])
        except SourceGone as fault:
            if self._source.holds(item.checkpoint):
                raise SoractlError(str(fault), exit_code=ExitCode.FAILED) from None
            self._synced.gone.append(item.checkpoint.name)
            return False
        self._done_bytes += item.bytes
        return True

    @contextmanager
    def _reading(self, checkpoint: Checkpoint) -> Iterator[None]:
        """Marks what is read here; on a node rsync runs under a mark."""
        if not self._plan.way.source.node.local:
            yield
            return
        try:
            with checkpoint.being_read(self._plan.way.reader):
                yield
        except FileNotFoundError as fault:
            raise SourceGone(str(fault)) from None

    def _settle(self, finishing: "_Finishing | None") -> None:
        """Wait until one is published, or found broken."""
        if finishing is None:
            return
        while finishing.is_alive():
            finishing.join(LOOK_AGAIN_S)
            self._show(finishing.look())
        if finishing.fault:
            raise finishing.fault
        name = finishing.item.checkpoint.name
        if finishing.broken:
            self._synced.broken[name] = finishing.broken | self._damaged_at_source(finishing)
        else:
            self._synced.copied.append(finishing.item)

    def _damaged_at_source(self, finishing: "_Finishing") -> dict[str, str]:
        checkpoint = finishing.item.checkpoint
        files = {name: checkpoint.manifest.files[name] for name in finishing.broken}
        return dict.fromkeys(self._source.damaged(checkpoint.path, files), DAMAGED_AT_SOURCE)


class _Finishing(threading.Thread):
    """Checks a checkpoint while it still comes, then gives it its name; Ctrl-C does not wait."""

    def __init__(self, item: Copy, run: RunDir, destination: End) -> None:
        super().__init__(daemon=True)
        self.item = item
        self.arrival = Arrival()
        self.broken: dict[str, str] = {}
        self.fault: Exception | None = None
        self._copy_of_run, self._destination = run, destination
        self._checked_bytes = 0
        self.start()

    def run(self) -> None:
        """What the thread does."""
        manifest = self.item.manifest
        incoming = incoming_path(self._copy_of_run, manifest)
        try:
            self.broken = self._destination.broken(
                incoming, manifest.files, self.arrival, self._count
            )
            if not self.broken:
                self._destination.publish(self._copy_of_run, manifest)
        except Exception as fault:  # noqa: BLE001 - raised again where it is waited for
            self.fault = fault

    def look(self) -> Transfer:
        """How far the check is."""
        what = f"checking {self.item.checkpoint.name}"
        return Transfer(what, min(self._checked_bytes, self.item.bytes), self.item.bytes)

    def _count(self, count: int) -> None:
        self._checked_bytes += count


@contextmanager
def _os_faults() -> Iterator[None]:
    """A folder that cannot be used here is the user's to put right, or passes."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise SoractlError(f"{where}{error.strerror}", exit_code=ExitCode.FAILED) from None


@contextmanager
def _ends(way: Way) -> Iterator[tuple[Way, End, End]]:
    with Connections(way.ssh) as remote:

        def end(place: Place) -> End:
            return Here(place) if place.node.local else There(place, remote)

        yield way, end(way.source), end(way.destination)


def _look(wishes: Wishes, way: Way, source: End, destination: End) -> SyncPlan:
    run = choose_run(source.runs(), Path(wishes.run).name, str(way.source))
    copied = RunDir(way.destination.folder / run.name)
    return plan(way, run, source.look(run), destination.look(copied), wishes)


@contextmanager
def _only_one(path: Path, destination: Place) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        give_up = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise locked(destination) from None
                time.sleep(LOOK_AGAIN_S)
        yield file.fileno()
