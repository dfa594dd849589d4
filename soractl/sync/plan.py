"""The plan of a sync: source and destination, checkpoints, and every command line."""

import hashlib
import os
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from soractl.checkpoints.verification import total_bytes
from soractl.cluster import settings as cluster
from soractl.errors import ExitCode, SoractlError
from soractl.remote.nodes import Node, find_nodes, this_machine
from soractl.remote.ssh_command import SshOptions
from soractl.sync import rsync
from soractl.sync.locations import LOCK, Location, incoming_path, parse_location
from soractl.sync.rsync import Link, RsyncJob
from soractl.sync.stores import CheckpointListing
from soractl.terminal.hints import to_type
from trainer.checkpoint_dir import Checkpoint, step_and_epoch
from trainer.manifest import Manifest
from trainer.run_dir import RunDir, run_of


@dataclass(frozen=True, kw_only=True)
class SyncOptions:
    """Options of `sync`."""

    run: str = "latest"  # or the path of one of its checkpoints
    source: str | None = None
    destination: str | None = None
    hostfile: str | None = None
    with_optimizer: bool = False
    ema_only: bool = False
    bwlimit: int | None = None  # KiB/s

    @property
    def checkpoint(self) -> str | None:
        """The name of the one checkpoint to copy, where `run` is the path of one."""
        path = Path(self.run).absolute()
        is_checkpoint = step_and_epoch(path.name) and path.parent == run_of(path).checkpoints_folder
        return path.name if is_checkpoint else None

    @property
    def run_path(self) -> Path:
        """The run's name or folder."""
        return run_of(Path(self.run).absolute()).path if self.checkpoint else Path(self.run)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The folders of a checkpoint that are not copied."""
        unwanted = {"optimizer": not self.with_optimizer, "model": self.ema_only}
        return tuple(name for name, without in unwanted.items() if without)


@dataclass(frozen=True)
class Endpoints:
    """Source and destination, both folders of runs; at most one is on a node."""

    source: Location
    destination: Location
    ssh: SshOptions

    @property
    def reader(self) -> str:
        """The reader's name in the source's read marks; equal for every run of the command."""
        target = hashlib.sha256(str(self.destination).encode()).hexdigest()[:10]
        return f"sync-{socket.gethostname()}-{target}"


@dataclass(frozen=True)
class CheckpointCopy:
    """One checkpoint to copy."""

    checkpoint: Checkpoint  # at the source
    manifest: Manifest  # as the copy will have it
    job: RsyncJob

    @property
    def bytes(self) -> int:
        """Size of what is copied."""
        return total_bytes(self.manifest.files)


@dataclass(frozen=True)
class SyncPlan:
    """A sync before it runs; checkpoints newest first."""

    endpoints: Endpoints
    run: RunDir  # at the source
    copy_of_run: RunDir  # at the destination
    link: Link
    description: RsyncJob
    copies: tuple[CheckpointCopy, ...]
    there: tuple[str, ...] = ()  # checkpoints that the destination has already
    incomplete: Mapping[str, str] = field(default_factory=dict)  # at the source, with the reason

    @property
    def bytes(self) -> int:
        """Size of all that is copied."""
        return sum(copy.bytes for copy in self.copies)

    @property
    def commands(self) -> list[list[str]]:
        """Every rsync in its order."""
        jobs = [self.description, *(copy.job for copy in self.copies)]
        return [rsync.command(job, self.link) for job in jobs]

    @property
    def lock(self) -> Path:
        """The file here that is locked while this is copied."""
        if self.endpoints.destination.node.local:
            return self.copy_of_run.checkpoints_folder / LOCK
        # not in the source, which may be read-only
        name = f"soractl-{os.getuid()}-{self.run.name}-{self.endpoints.reader}.lock"
        return Path(tempfile.gettempdir()) / name


def find_endpoints(options: SyncOptions, environ: Mapping[str, str]) -> Endpoints:
    """Source and destination of a sync; SoractlError when the options contradict."""
    if options.with_optimizer and options.ema_only:
        raise SoractlError("--with-optimizer and --ema-only exclude each other")
    found = find_nodes(options.hostfile, environ=environ)
    runs_here = Location(this_machine(), Path("runs").absolute())
    source = destination = runs_here
    if options.source:
        source = parse_location(options.source, this_machine())
    elif RunDir(options.run_path).run_json.is_file():
        source = Location(this_machine(), options.run_path.absolute().parent)
    elif options.hostfile or not options.destination:
        workdir = cluster.load(found.hostfile)[0].workdir or Path.cwd()
        source = Location(found.nodes[0], Path(workdir) / "runs")
    if options.destination:
        destination = parse_location(options.destination, this_machine())
    ends = (source, destination)
    if not any(end.node.local for end in ends):
        raise SoractlError(
            f"neither {source} nor {destination} is on this machine",
            hint=f"run `{to_type('sync')}` on one of the two",
        )
    if source == destination:
        raise SoractlError(
            f"source and destination are both {source}",
            hint="use `--from HOST:DIR` or `--to HOST:DIR`, where DIR is a folder of runs",
        )
    is_ours = options.hostfile or any(_known(end.node, found.nodes) for end in ends)
    return Endpoints(source, destination, cluster.load(found.hostfile if is_ours else None)[0].ssh)


def plan(
    endpoints: Endpoints,
    run: RunDir,
    at_source: CheckpointListing,
    there: CheckpointListing,
    options: SyncOptions,
) -> SyncPlan:
    """The plan of one run; SoractlError, exit code 6, without a complete checkpoint."""
    at_source = _selected(at_source, options.checkpoint)
    if not at_source.complete:
        reasons = "; ".join(f"{name}: {why}" for name, why in at_source.incomplete.items())
        missing = f"{options.checkpoint}: it is not there" if options.checkpoint else "none at all"
        raise SoractlError(
            f"{endpoints.source}/{run.name} has no complete checkpoint: {reasons or missing}",
            exit_code=ExitCode.NOTHING_SUITABLE,
        )
    copy_of_run = RunDir(endpoints.destination.folder / run.name)
    known = {checkpoint.name: checkpoint for checkpoint in there.complete}
    copies, same = [], []
    for checkpoint in reversed(at_source.complete):
        manifest = reduced(checkpoint.manifest, options.left_out)
        earlier = known.get(checkpoint.name)
        if earlier and manifest.files.items() <= earlier.manifest.files.items():
            same.append(checkpoint.name)
            continue
        job = RsyncJob(
            replace(endpoints.source, folder=checkpoint.path),
            replace(endpoints.destination, folder=incoming_path(copy_of_run, manifest)),
            rsync.of_checkpoint(options.left_out, earlier=_base(earlier, manifest)),
            mark=checkpoint.reader_mark(endpoints.reader),
            lock=copy_of_run.checkpoints_folder / LOCK,
        )
        copies.append(CheckpointCopy(checkpoint, manifest, job))
    description = RsyncJob(
        replace(endpoints.source, folder=run.path),
        replace(endpoints.destination, folder=copy_of_run.path),
        rsync.of_description(),
    )
    return SyncPlan(
        endpoints=endpoints,
        run=run,
        copy_of_run=copy_of_run,
        link=Link(endpoints.ssh, options.bwlimit),
        description=description,
        copies=tuple(copies),
        there=tuple(same),
        incomplete=at_source.incomplete,
    )


def _selected(listing: CheckpointListing, name: str | None) -> CheckpointListing:
    """All checkpoints, or the one of this name."""
    if name is None:
        return listing
    complete = tuple(checkpoint for checkpoint in listing.complete if checkpoint.name == name)
    return CheckpointListing(complete, {k: v for k, v in listing.incomplete.items() if k == name})


def reduced(manifest: Manifest, left_out: tuple[str, ...]) -> Manifest:
    """The manifest of a copy without these folders."""
    files = {
        name: facts
        for name, facts in manifest.files.items()
        if name.partition("/")[0] not in left_out
    }
    without = tuple(sorted({*manifest.left_out, *left_out}))
    return replace(manifest, files=files, left_out=without)


def _base(earlier: Checkpoint | None, manifest: Manifest) -> str | None:
    """The earlier copy to link files from: none if any file differs, which rsync may not see.

    It compares sizes, which are the same for the same model, and times in whole seconds.
    """
    if earlier is None:
        return None
    old = earlier.manifest.files
    same = all(facts == old[name] for name, facts in manifest.files.items() if name in old)
    return earlier.name if same else None


def _known(node: Node, nodes: tuple[Node, ...]) -> bool:
    return any((node.name, node.port) == (known.name, known.port) for known in nodes)
