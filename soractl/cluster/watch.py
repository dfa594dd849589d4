"""Looks at the GPUs of all nodes: one, or one every few seconds."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from soractl.cluster import settings as cluster
from soractl.cluster.gpus import NodeGpus, read_gpus
from soractl.errors import INTERRUPTED, ExitCode, exit_code_of
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node, NodeSource, find_nodes

PARTIAL_TABLE_AFTER_S = 1.5  # then the nodes that have answered are shown without the others


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


def watch_gpus(
    hosts: str | None,
    every_s: float | None,
    *,
    deadline_s: float,
    environ: Mapping[str, str],
    on_early: Callable[[Look], None] | None = None,
) -> Iterator[Look]:
    """One look, or one every so many seconds over the same connections.

    When a node takes long, `on_early` gets the rows of the others, before the whole look comes.
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

    def show() -> None:
        rows = tuple(answered[node] for node in source.nodes if node in answered)
        if on_early and rows:
            on_early(Look(source, rows, PARTIAL_TABLE_AFTER_S))

    timer = threading.Timer(PARTIAL_TABLE_AFTER_S, show)
    timer.daemon = True
    timer.start()
    try:
        yield lambda row: answered.update({row.node: row})
    finally:
        timer.cancel()
        timer.join()
