"""What `sync` would copy: from where to where, which checkpoints, and every command line."""

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
from soractl.remote.ssh_config import SshOptions
from soractl.sync import rsync
from soractl.sync.rsync import Copying, Link
from soractl.sync.stores import LOCK, Place, Seen, incoming_path, parse_place
from trainer.checkpoint_dir import Checkpoint
from trainer.manifest import Manifest
from trainer.run_dir import RunDir


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user said."""

    run: str = "latest"
    source: str | None = None
    destination: str | None = None
    hostfile: str | None = None
    with_optimizer: bool = False
    ema_only: bool = False
    bwlimit: int | None = None  # KiB/s

    @property
    def left_out(self) -> tuple[str, ...]:
        """The folders of a checkpoint that are not copied."""
        unwanted = {"optimizer": not self.with_optimizer, "model": self.ema_only}
        return tuple(name for name, without in unwanted.items() if without)


@dataclass(frozen=True)
class Way:
    """From which folder of runs to which; at most one of them is on a node."""

    source: Place
    destination: Place
    ssh: SshOptions

    @property
    def reader(self) -> str:
        """Who reads the source: the same name at every run of the command."""
        target = hashlib.sha256(str(self.destination).encode()).hexdigest()[:10]
        return f"sync-{socket.gethostname()}-{target}"


@dataclass(frozen=True)
class Copy:
    """One checkpoint that is copied."""

    checkpoint: Checkpoint  # at the source
    manifest: Manifest  # as the copy will have it
    copying: Copying

    @property
    def bytes(self) -> int:
        """Size of what is copied."""
        return total_bytes(self.manifest.files)


@dataclass(frozen=True)
class SyncPlan:
    """What is copied where, oldest first."""

    way: Way
    run: RunDir  # at the source
    copy_of_run: RunDir  # at the destination
    link: Link
    description: Copying
    copies: tuple[Copy, ...]
    there: tuple[str, ...] = ()  # checkpoints that the destination has already
    incomplete: Mapping[str, str] = field(default_factory=dict)  # at the source, and why

    @property
    def bytes(self) -> int:
        """Size of all that is copied."""
        return sum(copy.bytes for copy in self.copies)

    @property
    def commands(self) -> list[list[str]]:
        """Every rsync in its order."""
        copyings = [self.description, *(copy.copying for copy in self.copies)]
        return [rsync.command(copying, self.link) for copying in copyings]

    @property
    def lock(self) -> Path:
        """The file here that is locked while this is copied."""
        if self.way.destination.node.local:
            return self.copy_of_run.checkpoints_folder / LOCK
        # not in the source, which may be read-only
        name = f"soractl-{os.getuid()}-{self.run.name}-{self.way.reader}.lock"
        return Path(tempfile.gettempdir()) / name


def find_way(wishes: Wishes, environ: Mapping[str, str]) -> Way:
    """The two ends that are meant; SoractlError when they cannot be."""
    if wishes.with_optimizer and wishes.ema_only:
        raise SoractlError("--with-optimizer and --ema-only exclude each other")
    found = find_nodes(wishes.hostfile, environ=environ)
    runs_here = Place(this_machine(), Path("runs").absolute())
    source = destination = runs_here
    if wishes.source:
        source = parse_place(wishes.source, this_machine())
    elif RunDir(Path(wishes.run)).run_json.is_file():
        source = Place(this_machine(), Path(wishes.run).absolute().parent)
    elif wishes.hostfile or not wishes.destination:
        workdir = cluster.load(found.hostfile)[0].workdir or Path.cwd()
        source = Place(found.nodes[0], Path(workdir) / "runs")
    if wishes.destination:
        destination = parse_place(wishes.destination, this_machine())
    ends = (source, destination)
    if not any(end.node.local for end in ends):
        raise SoractlError(
            f"neither {source} nor {destination} is on this machine",
            hint="run `soractl sync` on one of the two",
        )
    if source == destination:
        raise SoractlError(
            f"source and destination are both {source}",
            hint="say `--from HOST:DIR` or `--to HOST:DIR`, where DIR is a folder of runs",
        )
    is_ours = wishes.hostfile or any(_known(end.node, found.nodes) for end in ends)
    return Way(source, destination, cluster.load(found.hostfile if is_ours else None)[0].ssh)


def plan(way: Way, run: RunDir, at_source: Seen, there: Seen, wishes: Wishes) -> SyncPlan:
    """What is to be done; exit code 6 when the run has no complete checkpoint."""
    if not at_source.complete:
        seen = "; ".join(f"{name}: {why}" for name, why in at_source.incomplete.items())
        raise SoractlError(
            f"{way.source}/{run.name} has no complete checkpoint: {seen or 'there is none at all'}",
            exit_code=ExitCode.NOTHING_SUITABLE,
        )
    copy_of_run = RunDir(way.destination.folder / run.name)
    known = {checkpoint.name: checkpoint for checkpoint in there.complete}
    copies, same = [], []
    for checkpoint in at_source.complete:
        manifest = reduced(checkpoint.manifest, wishes.left_out)
        earlier = known.get(checkpoint.name)
        if earlier and manifest.files.items() <= earlier.manifest.files.items():
            same.append(checkpoint.name)
            continue
        copying = Copying(
            replace(way.source, folder=checkpoint.path),
            replace(way.destination, folder=incoming_path(copy_of_run, manifest)),
            rsync.of_checkpoint(wishes.left_out, earlier=_base(earlier, manifest)),
            mark=checkpoint.reader_mark(way.reader),
            lock=copy_of_run.checkpoints_folder / LOCK,
        )
        copies.append(Copy(checkpoint, manifest, copying))
    description = Copying(
        replace(way.source, folder=run.path),
        replace(way.destination, folder=copy_of_run.path),
        rsync.of_description(),
    )
    return SyncPlan(
        way=way,
        run=run,
        copy_of_run=copy_of_run,
        link=Link(way.ssh, wishes.bwlimit),
        description=description,
        copies=tuple(copies),
        there=tuple(same),
        incomplete=at_source.incomplete,
    )


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
    """The copy whose files are taken over: none if any differs, which rsync may not see.

    It compares sizes, which are the same for the same model, and times in whole seconds.
    """
    if earlier is None:
        return None
    old = earlier.manifest.files
    same = all(facts == old[name] for name, facts in manifest.files.items() if name in old)
    return earlier.name if same else None


def _known(node: Node, nodes: tuple[Node, ...]) -> bool:
    return any((node.name, node.port) == (known.name, known.port) for known in nodes)
