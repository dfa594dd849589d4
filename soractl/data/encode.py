"""`data encode`: a stage's clips and captions become cached features, once, on many nodes."""

import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from soractl.cluster import settings as cluster
from soractl.cluster.rank_environment import carried, environment_of, ranks_of, working_directory
from soractl.cluster.settings import Cluster, Machine
from soractl.errors import INTERRUPTED, ExitCode, Fault, SoractlError, exit_code_of
from soractl.files import output as data_output
from soractl.files.lock import locked
from soractl.remote.fan_out import run_everywhere
from soractl.remote.nodes import Node, NodeSource, find_nodes
from soractl.remote.requests import Remote, Request
from soractl.terminal import text
from soractl.terminal.meter import CLIPS, Meter, Show
from trainer.config import load_stage
from trainer.settings import dump

CLIPS_PER_SHARD = 256  # at most so many are encoded anew by each rank after a kill
PLAN_S = 900.0  # a table of millions on a busy file server
LONGEST_S = 30 * 86_400.0
POLL_S = 0.5
IN_FOLDER = 'cd "$1" && shift && exec "$@"'

Kind = Literal["text", "video"]
KINDS: tuple[Kind, ...] = ("text", "video")


@dataclass(frozen=True)
class Wishes:
    """What was asked for."""

    stage: str
    out: Path
    hostfile: str | None = None
    variants: int = 1
    kinds: tuple[Kind, ...] = KINDS
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """How much there is of one kind of features."""

    kind: str
    path: str
    variants: int
    clips: int  # or captions; a clip's variants are counted each
    done_clips: int
    bytes: int

    @property
    def bytes_left(self) -> int:
        """About what is still to be written."""
        return round(self.bytes * (1 - self.done_clips / self.clips))


@dataclass(frozen=True)
class Planned:
    """What would be encoded where; nothing is made yet."""

    wishes: Wishes
    source: NodeSource
    job: Mapping[str, Any]  # for the trainer's program
    requests: Mapping[Node, Request]  # of the work
    asked: Request  # what one node is asked at the end
    ranks: int
    parts: tuple[Part, ...]
    free_bytes: int

    @property
    def head(self) -> Node:
        """The node that plans and finishes."""
        return next(iter(self.requests))

    @property
    def bytes_left(self) -> int:
        """About what is still to be written."""
        return sum(part.bytes_left for part in self.parts)


@dataclass(frozen=True)
class Encoded:
    """What came of it."""

    planned: Planned
    seconds: float
    faults: Mapping[str, Fault]  # nodes that did not do all of their share, and why
    parts: tuple[Mapping[str, Any], ...] = ()  # of complete features, as the trainer tells them

    @property
    def interrupted(self) -> bool:
        """Ctrl-C ended it."""
        return INTERRUPTED in self.faults.values()

    @property
    def exit_code(self) -> ExitCode:
        """3 if clips have no features, 1 if none has; when work is left, why."""
        if self.faults:
            return exit_code_of(self.faults.values())
        if not any(part["failed"] for part in self.parts):
            return ExitCode.OK
        nothing = any(part["clips"] == 0 for part in self.parts)
        return ExitCode.FAILED if nothing else ExitCode.SOME_FAILED


def prepare(wishes: Wishes, environ: Mapping[str, str]) -> tuple[NodeSource, Cluster]:
    """The nodes that will work, and what is true of them."""
    data_output.check_folder(wishes.out)
    source = find_nodes(wishes.hostfile, environ=environ)
    if all(node.spare for node in source.nodes):
        raise SoractlError("all nodes are spare: none is left to encode on")
    return source, cluster.load(source.hostfile)[0]


def plan(
    wishes: Wishes,
    source: NodeSource,
    facts: Cluster,
    environ: Mapping[str, str],
    remote: Remote,
) -> Planned:
    """Ask the first node how much there is to encode; SoractlError says why it cannot tell."""
    settings = load_stage(wishes.stage, wishes.overrides).config
    out = wishes.out.absolute()
    job = {
        "settings": dump(settings),
        "folder": str(out),
        "kinds": list(wishes.kinds),
        "variants": wishes.variants,
        "clips_per_shard": CLIPS_PER_SHARD,
    }
    machine = cluster.this_machine(environ)
    nodes = [node for node in source.nodes if not node.spare]
    ranks = [ranks_of(node, facts, machine) for node in nodes]
    alone = len(nodes) == 1 and nodes[0].local
    operator = carried(environ, alone=alone)

    def request(number: int, what: str, *options: str) -> Request:
        node = nodes[number]
        environment = environment_of(
            node, ranks[number], run=out, cluster=facts, machine=machine, operator=operator
        )
        argv = (
            *("sh", "-c", IN_FOLDER, "sh", str(working_directory(facts, machine)), "env"),
            *(f"{key}={value}" for key, value in environment.items()),
            *(_python(node, facts, machine), "-m", "trainer.encode", what, *options),
        )
        return Request(argv, json.dumps(job))

    parts = _ask(nodes[0], request(0, "plan"), remote)
    return Planned(
        wishes=wishes,
        source=source,
        job=job,
        requests={
            node: request(
                number,
                "work",
                *("--first-rank", str(sum(ranks[:number])), "--ranks", str(ranks[number])),
                *("--world-size", str(sum(ranks))),
            )
            for number, node in enumerate(nodes)
        },
        asked=request(0, "finish"),
        ranks=sum(ranks),
        parts=tuple(Part(**part) for part in parts),
        free_bytes=shutil.disk_usage(data_output.nearest(out)).free,
    )


def encode(planned: Planned, remote: Remote, show: Show) -> Encoded:
    """Let every node encode its share, and close the set; complete shards are kept whatever."""
    out = planned.wishes.out.absolute()
    if planned.bytes_left > planned.free_bytes:
        raise SoractlError(
            f"{out} has {text.size(planned.free_bytes)} free, "
            f"and about {text.size(planned.bytes_left)} are to be written",
            hint="--only text needs the least; --variants says how often a clip is kept",
        )
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with locked(out / ".lock", f"{out}: another command writes features there"):
        with _shown(planned, out / ".progress", show):
            results = run_everywhere(
                list(planned.requests),
                lambda node: planned.requests[node],
                remote,
                deadline_s=LONGEST_S,
            )
        seconds = time.monotonic() - began
        faults = {result.node.name: result.problem for result in results if result.problem}
        if faults:
            return Encoded(planned, seconds, faults)
        return Encoded(planned, seconds, {}, tuple(_ask(planned.head, planned.asked, remote)))


@contextmanager
def _shown(planned: Planned, folder: Path, show: Show) -> Iterator[None]:
    """Show what the ranks say of their progress, as long as they work."""
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier command, perhaps with more ranks
    total = sum(part.clips for part in planned.parts)
    before = sum(part.done_clips for part in planned.parts)
    counter = Meter(CLIPS, total, show, done=before)
    over = threading.Event()

    def watch() -> None:
        done, failed, began = before, 0, time.monotonic()
        while not over.wait(POLL_S):
            told = list(_told(folder))
            now_done, now_failed, pixels = (
                sum(ranks) for ranks in zip((0, 0, 0), *told, strict=True)
            )
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


def _told(folder: Path) -> Iterator[tuple[int, int, int]]:
    """(done, failed, pixels) of every rank that has said so."""
    for file in folder.glob("*.json"):
        try:
            values = json.loads(file.read_text())
        except (OSError, ValueError):
            continue  # replaced just now, on a file server that shows it late
        yield values["done"], values["failed"], values["pixels"]


def _ask(node: Node, request: Request, remote: Remote) -> list[Any]:
    """The parts that the trainer's program tells of."""
    result = remote(node, request, PLAN_S)
    if not result.ok:
        is_unreachable = exit_code_of([result.fault]) is ExitCode.SOME_UNREACHABLE
        code = ExitCode.SOME_UNREACHABLE if is_unreachable else ExitCode.BAD_REQUEST
        raise SoractlError(f"{node.name}: {result.reason}", exit_code=code)
    parts: list[Any] = json.loads(result.stdout.splitlines()[-1])["parts"]
    return parts


def _python(node: Node, facts: Cluster, machine: Machine) -> str:
    if node.local:
        return sys.executable
    return f"{facts.environment or machine.environment}/python"
