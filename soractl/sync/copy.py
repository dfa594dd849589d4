"""A sync at work: checkpoints are copied, verified and published, never visible half copied."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from soractl.checkpoints.verification import TransferEvent
from soractl.errors import ExitCode, SoractlError
from soractl.files.lock import locked as file_lock
from soractl.remote.connections import Connections
from soractl.remote.openssh import socket_folder, words_for_programs
from soractl.remote.requests import Remote
from soractl.remote.ssh_command import SshFailure
from soractl.runs.find import choose_run
from soractl.sync import rsync
from soractl.sync.locations import LOCK_WAIT_S, Location, incoming_path, locked, unreachable
from soractl.sync.plan import CheckpointCopy, Endpoints, SyncOptions, SyncPlan, find_endpoints, plan
from soractl.sync.remote_store import ASK_S, RemoteStore
from soractl.sync.rsync import Link, SourceGone
from soractl.sync.stores import LocalStore, Store
from soractl.terminal.meter import BYTES, Display, Reading, Show
from soractl.terminal.text import span
from trainer.checkpoint_dir import Checkpoint
from trainer.run_dir import RunDir

Displays = Callable[[], AbstractContextManager[Display]]
Log = Callable[[str], None]
POLL_S = 0.1
DAMAGED_AT_SOURCE = "is damaged at the source"


@dataclass
class Synced:
    """The result of a plan."""

    plan: SyncPlan
    copied: list[CheckpointCopy] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)  # removed at the source before they were copied
    broken: dict[str, dict[str, str]] = field(default_factory=dict)  # checkpoint: file: fault
    elapsed_s: float = 0.0

    @property
    def exit_code(self) -> ExitCode:
        """1 when a copy differs from its manifest."""
        return ExitCode.FAILED if self.broken else ExitCode.OK


def dry_run(options: SyncOptions, environ: Mapping[str, str]) -> SyncPlan:
    """The plan alone."""
    with (
        _stores(find_endpoints(options, environ)) as (endpoints, source, destination),
        os_errors(),
    ):
        return plan_of(options, endpoints, source, destination)


def rounds(
    options: SyncOptions,
    environ: Mapping[str, str],
    display: Displays,
    *,
    every_s: float | None,
    log: Log,
) -> Iterator[Synced]:
    """One sync, or one every `every_s` seconds; in the loop, transient errors are logged."""
    found = find_endpoints(options, environ)
    while True:
        try:
            with _stores(found) as (endpoints, source, destination), os_errors():
                planned = plan_of(options, endpoints, source, destination)
                log(f"{planned.run.name} from {endpoints.source} to {endpoints.destination}")
                with display() as shown:
                    synced = copy(planned, source, destination, shown.show)
            yield synced
        except SoractlError as fault:
            if every_s is None or fault.exit_code == ExitCode.BAD_REQUEST:
                raise
            log(f"{fault}; trying again in {span(every_s)}")
        if every_s is None:
            return
        time.sleep(every_s)


def copy(planned: SyncPlan, source: Store, destination: Store, show: Show) -> Synced:
    """Copy, check at the destination and publish; exit code 5 while another sync is at work."""
    began = time.monotonic()
    with (
        _sync_lock(planned.lock, planned.endpoints.destination) as lock,
        linked(planned) as link,
    ):
        kept = {incoming_path(planned.copy_of_run, item.manifest).name for item in planned.copies}
        destination.prepare_incoming(planned.copy_of_run, kept)
        synced = _Copier(planned, source, destination, show, lock).run(link)
    synced.elapsed_s = time.monotonic() - began
    return synced


@contextmanager
def linked(planned: SyncPlan) -> Iterator[Link]:
    """The link of a plan's programs, which share one connection: its own, or one until the end."""
    if planned.link.shell:
        yield planned.link
        return
    with socket_folder() as folder:
        yield replace(planned.link, shell=shell_of(planned, Path(folder)))


def shell_of(planned: SyncPlan, folder: Path) -> tuple[str, ...]:
    """ssh with its options, as ssh has them for the node, if one is on a node."""
    location = planned.description.remote
    if location is None:
        return ()
    try:
        return words_for_programs(location.node, planned.link.ssh, folder, ASK_S)
    except SshFailure as failure:
        raise unreachable(location, f"unreachable: {failure}") from None


class _Copier:
    """Copies one checkpoint while the one before it is still verified and published."""

    def __init__(
        self, planned: SyncPlan, source: Store, destination: Store, show: Show, lock: int
    ) -> None:
        self._plan, self._source, self._destination = planned, source, destination
        self._show, self._lock = show, lock
        self._synced = Synced(planned)
        self._done_bytes = 0
        self._began = time.monotonic()

    def run(self, link: Link) -> Synced:
        """Copy in order; at an error, checkpoints that arrived completely are published first."""
        self._link = link
        with suppress(SourceGone):  # a copied checkpoint is useful without the run's description
            self._link = rsync.run(self._plan.description, link, lambda _: None)
        previous: _Verifier | None = None
        try:
            for number, item in enumerate(self._plan.copies, start=1):
                what = f"{item.checkpoint.name} ({number} of {len(self._plan.copies)})"
                previous = self._one(item, what, previous)
        except SoractlError:
            self._settle(previous)
            raise
        self._settle(previous)
        return self._synced

    def _one(
        self, item: CheckpointCopy, what: str, previous: "_Verifier | None"
    ) -> "_Verifier | None":
        """Copy one checkpoint; returns the verifier that still works."""
        verifier = _Verifier(item, self._plan.copy_of_run, self._destination)
        try:
            if not self._fetch(item, what):
                verifier.transfer.abort()
                return previous
            self._settle(previous)  # in the order of the plan: the newest gets its name first
        except BaseException:
            verifier.transfer.abort()
            raise
        verifier.transfer.mark_complete()
        return verifier

    def _fetch(self, item: CheckpointCopy, what: str) -> bool:
        """Copy one into its incoming folder; False when the source has removed it."""

        def report(done: int) -> None:
            total = self._done_bytes + done
            rate = total / (time.monotonic() - self._began)
            self._show(Reading(BYTES, total, self._plan.bytes, rate, what=what))

        try:
            with self._reading(item.checkpoint):
                self._link = rsync.run(item.job, self._link, report, held=[self._lock])
        except SourceGone as fault:
            if self._source.holds(item.checkpoint):
                raise SoractlError(str(fault), exit_code=ExitCode.FAILED) from None
            self._synced.gone.append(item.checkpoint.name)
            return False
        self._done_bytes += item.bytes
        return True

    @contextmanager
    def _reading(self, checkpoint: Checkpoint) -> Iterator[None]:
        """Mark a checkpoint here as being read; on a node rsync runs under a mark."""
        if not self._plan.endpoints.source.node.local:
            yield
            return
        try:
            with checkpoint.being_read(self._plan.endpoints.reader):
                yield
        except FileNotFoundError as fault:
            raise SourceGone(str(fault)) from None

    def _settle(self, verifier: "_Verifier | None") -> None:
        """Wait until a checkpoint is published, or found broken."""
        if verifier is None:
            return
        while verifier.is_alive():
            verifier.join(POLL_S)
            self._show(verifier.look())
        if verifier.fault:
            raise verifier.fault
        name = verifier.item.checkpoint.name
        if verifier.broken:
            self._synced.broken[name] = verifier.broken | self._damaged_at_source(verifier)
        else:
            self._synced.copied.append(verifier.item)

    def _damaged_at_source(self, verifier: "_Verifier") -> dict[str, str]:
        checkpoint = verifier.item.checkpoint
        files = {name: checkpoint.manifest.files[name] for name in verifier.broken}
        return dict.fromkeys(self._source.damaged(checkpoint.path, files), DAMAGED_AT_SOURCE)


class _Verifier(threading.Thread):
    """Thread that verifies a checkpoint while it arrives, then publishes it."""

    def __init__(self, item: CheckpointCopy, run: RunDir, destination: Store) -> None:
        super().__init__(daemon=True)
        self.item = item
        self.transfer = TransferEvent()
        self.broken: dict[str, str] = {}
        self.fault: Exception | None = None
        self._copy_of_run, self._destination = run, destination
        self._checked_bytes = 0
        self.start()

    def run(self) -> None:
        """Verify, then publish."""
        manifest = self.item.manifest
        incoming = incoming_path(self._copy_of_run, manifest)
        try:
            self.broken = self._destination.broken(
                incoming, manifest.files, self.transfer, self._count
            )
            if not self.broken:
                self._destination.publish(self._copy_of_run, manifest)
        except Exception as fault:  # noqa: BLE001 - raised again where it is waited for
            self.fault = fault

    def look(self) -> Reading:
        """Progress of the verification."""
        what = f"checking {self.item.checkpoint.name}"
        done = min(self._checked_bytes, self.item.bytes)
        return Reading(BYTES, done, self.item.bytes, what=what)

    def _count(self, count: int) -> None:
        self._checked_bytes += count


@contextmanager
def os_errors() -> Iterator[None]:
    """An error of the file system as a SoractlError, exit code 1."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise SoractlError(f"{where}{error.strerror}", exit_code=ExitCode.FAILED) from None


@contextmanager
def _stores(endpoints: Endpoints) -> Iterator[tuple[Endpoints, Store, Store]]:
    with Connections(endpoints.ssh) as remote:
        yield endpoints, *stores_of(endpoints, remote)


def stores_of(endpoints: Endpoints, remote: Remote) -> tuple[Store, Store]:
    """Source and destination."""

    def store(location: Location) -> Store:
        return LocalStore(location) if location.node.local else RemoteStore(location, remote)

    return store(endpoints.source), store(endpoints.destination)


def plan_of(
    options: SyncOptions, endpoints: Endpoints, source: Store, destination: Store
) -> SyncPlan:
    """The plan of what source and destination have now."""
    run = choose_run(source.runs(), options.run_path.name, str(endpoints.source))
    copied = RunDir(endpoints.destination.folder / run.name)
    return plan(endpoints, run, source.list(run), destination.list(copied), options)


@contextmanager
def _sync_lock(path: Path, destination: Location) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path, str(locked(destination)), wait_s=LOCK_WAIT_S) as descriptor:
        yield descriptor
