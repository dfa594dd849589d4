"""`data encode`: encodes a stage's clips and captions once, on many nodes, as cached features."""

import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from soractl.cluster import settings as cluster_settings
from soractl.cluster.node_python import python_on
from soractl.cluster.rank_environment import carried, environment_of
from soractl.cluster.ranks import ranks_of
from soractl.cluster.settings import Cluster, Machine
from soractl.errors import INTERRUPTED, ExitCode, Fault, SoractlError, exit_code_of
from soractl.files import output as data_output
from soractl.files.lock import locked
from soractl.remote.connections import Connections
from soractl.remote.fan_out import run_everywhere
from soractl.remote.nodes import Node, find_nodes
from soractl.remote.requests import Remote, Request
from soractl.terminal import text
from soractl.terminal.meter import CLIPS, Meter, Show
from trainer.config import load_stage
from trainer.settings import dump

PLAN_S = 900.0  # a table of millions on a busy file server
LONGEST_S = 30 * 86_400.0
POLL_S = 0.5

Kind = Literal["text", "video"]
KINDS: tuple[Kind, ...] = ("text", "video")


@dataclass(frozen=True)
class EncodeOptions:
    """Options of `data encode`."""

    stage: str
    out: Path
    hostfile: str | None = None
    variants: int = 1
    kinds: tuple[Kind, ...] = KINDS
    overrides: tuple[str, ...] = ()
    clips_per_shard: int = 256  # at most so many are encoded again by each rank after a kill

    @property
    def folder(self) -> Path:
        """The folder of features, from the root."""
        return self.out.absolute()


@dataclass(frozen=True)
class EncodeSite:
    """The nodes that will encode, and the facts about them."""

    origin: str  # of the list of nodes
    ranks: Mapping[Node, int]
    cluster: Cluster
    machine: Machine
    operator: Mapping[str, str]  # the part of the operator's environment that ranks get


@dataclass(frozen=True)
class FeatureSize:
    """Size of one kind of features."""

    kind: str
    path: str
    variants: int
    clips: int  # or captions; a clip's variants are counted each
    done_clips: int
    bytes: int

    @property
    def bytes_left(self) -> int:
        """About how much is still to be written."""
        return round(self.bytes * (1 - self.done_clips / self.clips))


@dataclass(frozen=True)
class EncodePlan:
    """The requests that will encode a stage, and their size; nothing is made yet."""

    options: EncodeOptions
    origin: str  # of the list of nodes
    requests: Mapping[Node, Request]  # each node's share
    finish: Request  # for the head, when all shares are done
    ranks: int
    estimates: tuple[FeatureSize, ...]
    free_bytes: int

    @property
    def head(self) -> Node:
        """The node that plans and finishes."""
        return next(iter(self.requests))

    @property
    def bytes_left(self) -> int:
        """About how much is still to be written."""
        return sum(estimate.bytes_left for estimate in self.estimates)


@dataclass(frozen=True)
class Encoded:
    """Result of `data encode`."""

    plan: EncodePlan
    seconds: float
    faults: Mapping[str, Fault]  # nodes that did not finish their share
    parts: tuple[Mapping[str, Any], ...] = ()  # of complete features, as the trainer reports them

    @property
    def interrupted(self) -> bool:
        """Ctrl-C ended the command."""
        return INTERRUPTED in self.faults.values()

    @property
    def exit_code(self) -> ExitCode:
        """Exit code: 3 if clips have no features, 1 if none has; if work is left, why."""
        if self.faults:
            return exit_code_of(self.faults.values())
        if not any(part["failed"] for part in self.parts):
            return ExitCode.OK
        nothing = any(part["clips"] == 0 for part in self.parts)
        return ExitCode.FAILED if nothing else ExitCode.SOME_FAILED


@contextmanager
def planned(
    options: EncodeOptions, environ: Mapping[str, str]
) -> Iterator[tuple[EncodePlan, Remote]]:
    """The plan, and connections to the nodes until the block ends.

    SoractlError if no node may work, no folder can be made, or the first node cannot plan.
    """
    site = _site(options, environ)
    with Connections(site.cluster.ssh) as remote:
        yield _plan(options, site, remote), remote


def _site(options: EncodeOptions, environ: Mapping[str, str]) -> EncodeSite:
    data_output.check_folder(options.out)
    source = find_nodes(options.hostfile, environ=environ)
    nodes = [node for node in source.nodes if not node.spare]
    if not nodes:
        raise SoractlError("all nodes are spare: none is left to encode on")
    cluster, _ = cluster_settings.load(source.hostfile)
    machine = cluster_settings.this_machine(environ)
    return EncodeSite(
        origin=source.origin,
        ranks={node: ranks_of(node, cluster, machine) for node in nodes},
        cluster=cluster,
        machine=machine,
        operator=carried(environ, alone=len(nodes) == 1 and nodes[0].local),
    )


def _plan(options: EncodeOptions, site: EncodeSite, remote: Remote) -> EncodePlan:
    """The plan, with the size that the first node answers."""
    job = _job(options)
    head = next(iter(site.ranks))
    parts = _ask(head, _request(site, head, job, "plan"), remote)
    return EncodePlan(
        options=options,
        origin=site.origin,
        requests=_shares(site, job),
        finish=_request(site, head, job, "finish"),
        ranks=sum(site.ranks.values()),
        estimates=tuple(FeatureSize(**part) for part in parts),
        free_bytes=shutil.disk_usage(data_output.nearest(options.folder)).free,
    )


def _job(options: EncodeOptions) -> dict[str, Any]:
    """The job that the trainer's program reads on stdin."""
    settings = load_stage(options.stage, options.overrides).config
    return {
        "settings": dump(settings),
        "folder": str(options.folder),
        "kinds": list(options.kinds),
        "variants": options.variants,
        "clips_per_shard": options.clips_per_shard,
    }


def _shares(site: EncodeSite, job: Mapping[str, Any]) -> dict[Node, Request]:
    """The request of each node for its ranks; they are counted from the first node on."""
    counts = list(site.ranks.values())
    first_ranks = accumulate(counts, initial=0)
    return {
        node: _request(
            site,
            node,
            job,
            *("work", "--first-rank", str(first), "--ranks", str(ranks)),
            *("--world-size", str(sum(counts))),
        )
        for (node, ranks), first in zip(site.ranks.items(), first_ranks, strict=False)
    }


def _request(site: EncodeSite, node: Node, job: Mapping[str, Any], *arguments: str) -> Request:
    environment = environment_of(
        node,
        site.ranks[node],
        run=Path(job["folder"]),
        cluster=site.cluster,
        machine=site.machine,
        operator=site.operator,
    )
    program = ("-m", "trainer.encode", *arguments)
    return Request(
        python_on(node, site.cluster, *program, environment=environment), json.dumps(job)
    )


def encode(plan: EncodePlan, remote: Remote, show: Show) -> Encoded:
    """Let every node encode its share, then close the set; complete shards are kept in any case.

    SoractlError if the disk is too small or another command writes there.
    """
    out = plan.options.folder
    if plan.bytes_left > plan.free_bytes:
        raise SoractlError(
            f"{out} has {text.size(plan.free_bytes)} free, "
            f"and about {text.size(plan.bytes_left)} are to be written",
            hint="--only text needs the least space; fewer --variants need less",
        )
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with locked(out / ".lock", f"{out}: another command is writing features there"):
        with _shown(plan, out / ".progress", show):
            results = run_everywhere(
                list(plan.requests),
                lambda node: plan.requests[node],
                remote,
                deadline_s=LONGEST_S,
            )
        seconds = time.monotonic() - began
        faults = {result.node.name: result.problem for result in results if result.problem}
        if faults:
            return Encoded(plan, seconds, faults)
        return Encoded(plan, seconds, {}, tuple(_ask(plan.head, plan.finish, remote)))


@contextmanager
def _shown(plan: EncodePlan, folder: Path, show: Show) -> Iterator[None]:
    """Show the progress that the ranks report, as long as they work."""
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier command, perhaps with more ranks
    total = sum(estimate.clips for estimate in plan.estimates)
    before = sum(estimate.done_clips for estimate in plan.estimates)
    counter = Meter(CLIPS, total, show, done=before)
    over = threading.Event()

    def watch() -> None:
        done, failed, began = before, 0, time.monotonic()
        while not over.wait(POLL_S):
            ranks = list(_progress(folder))
            now_done, now_failed, pixels = map(sum, zip((0, 0, 0), *ranks, strict=True))
            if now_done > done:
                rate = pixels / (time.monotonic() - began) / 1e6
                more = f"{rate:.3g} Mpixel/s" if pixels else ""
                counter.advance(now_done - done, max(0, now_failed - failed), more)
                done, failed = now_done, max(failed, now_failed)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _progress(folder: Path) -> Iterator[tuple[int, int, int]]:
    """(done, failed, pixels) of every rank that has reported."""
    for file in folder.glob("*.json"):
        try:
            values = json.loads(file.read_text())
        except (OSError, ValueError):
            continue  # replaced just now, on a file server that shows it late
        yield values["done"], values["failed"], values["pixels"]


def _ask(node: Node, request: Request, remote: Remote) -> list[Any]:
    """The parts that the trainer's program reports; SoractlError if it fails."""
    result = remote(node, request, PLAN_S)
    if not result.ok:
        is_unreachable = exit_code_of([result.fault]) is ExitCode.SOME_UNREACHABLE
        code = ExitCode.SOME_UNREACHABLE if is_unreachable else ExitCode.BAD_REQUEST
        raise SoractlError(f"{node.name}: {result.reason}", exit_code=code)
    parts: list[Any] = json.loads(result.stdout.splitlines()[-1])["parts"]
    return parts
