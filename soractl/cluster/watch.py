"""`gpus` and `exec`: nodes found by what the user named, asked once or again and again."""

import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from soractl.cluster import settings as cluster
from soractl.cluster.gpus import NodeGpus, read_gpus
from soractl.errors import INTERRUPTED, ExitCode, SoractlError, exit_code_of
from soractl.remote.connections import Connections
from soractl.remote.fan_out import run_everywhere
from soractl.remote.nodes import Node, NodeSource, find_nodes, is_hostfile
from soractl.remote.requests import NodeResult, Request

SEPARATOR = "--"
PATIENCE_S = 1.5  # then the nodes that have answered are shown without the others


@dataclass(frozen=True)
class Look:
    """The GPUs of all nodes at one moment."""

    source: NodeSource
    rows: tuple[NodeGpus, ...]
    elapsed_s: float

    @property
    def interrupted(self) -> bool:
        """Ctrl-C came before all nodes had answered."""
        return any(row.fault == INTERRUPTED for row in self.rows)

    @property
    def exit_code(self) -> ExitCode:
        """As for every command over many nodes; a note alone is no failure."""
        return exit_code_of(row.fault for row in self.rows)


@dataclass(frozen=True)
class Answers:
    """What all nodes said to one command."""

    source: NodeSource
    results: tuple[NodeResult, ...]
    elapsed_s: float


def watch_gpus(
    hosts: str | None,
    every_s: float | None,
    *,
    deadline_s: float,
    environ: Mapping[str, str],
    on_early: Callable[[Look], None] | None = None,
) -> Iterator[Look]:
    """One look, or one every so many seconds over the same connections.

    When a node takes long, `on_early` gets what the others said, before the whole look comes.
    """
    source = find_nodes(hosts, environ=environ)
    with Connections(cluster.load(source.hostfile)[0].ssh) as remote:
        while True:
            began = time.monotonic()
            with _early(source, on_early) as on_result:
                rows = read_gpus(source.nodes, remote, deadline_s=deadline_s, on_result=on_result)
            elapsed_s = time.monotonic() - began
            look = Look(source, tuple(rows), elapsed_s)
            yield look
            if every_s is None or look.interrupted:
                return
            time.sleep(max(0.0, every_s - elapsed_s))


@contextmanager
def _early(
    source: NodeSource, on_early: Callable[[Look], None] | None
) -> Iterator[Callable[[NodeGpus], None]]:
    answered: dict[Node, NodeGpus] = {}

    def tell() -> None:
        rows = tuple(answered[node] for node in source.nodes if node in answered)
        if on_early and rows:
            on_early(Look(source, rows, PATIENCE_S))

    timer = threading.Timer(PATIENCE_S, tell)
    timer.daemon = True
    timer.start()
    try:
        yield lambda row: answered.update({row.node: row})
    finally:
        timer.cancel()
        timer.join()


def execute(words: Sequence[str], *, deadline_s: float, environ: Mapping[str, str]) -> Answers:
    """`[HOSTS] -- COMMAND...` on all nodes; a single word may be a line of shell."""
    hosts, command = split(words)
    source = find_nodes(hosts, environ=environ)
    request = Request(tuple(command) if len(command) > 1 else ("sh", "-c", command[0]))
    began = time.monotonic()
    with Connections(cluster.load(source.hostfile)[0].ssh) as remote:
        results = run_everywhere(source.nodes, lambda node: request, remote, deadline_s=deadline_s)
    return Answers(source, tuple(results), time.monotonic() - began)


def split(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Hosts before `--`, the command after it; without hosts the command alone."""
    if SEPARATOR not in words:
        if is_hostfile(words[0]):
            raise SoractlError(
                f"{words[0]} is a host file and no command",
                hint=f"`soractl exec {words[0]} -- {shlex.join(words[1:]) or 'hostname'}`",
            )
        return None, list(words)
    at = list(words).index(SEPARATOR)
    hosts, command = words[:at], list(words[at + 1 :])
    if len(hosts) > 1 or not command:
        raise SoractlError(
            f"cannot tell hosts from command in {' '.join(words)!r}",
            hint="`soractl exec nodes.txt -- hostname`; options come first",
        )
    return (hosts[0] if hosts else None), command
