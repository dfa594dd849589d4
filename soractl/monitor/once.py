"""All nodes at one moment without a monitor: looked at now, or as they were stored last."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from soractl.cluster import settings as cluster
from soractl.errors import ExitCode, Fault, FaultKind, exit_code_of
from soractl.health.clock import Measured
from soractl.health.clock_watch import NodeClock
from soractl.monitor import store
from soractl.monitor.collect import Collector
from soractl.monitor.live import Live, NodeNow, Snapshot
from soractl.monitor.record import read
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node, NodeSource

EVERY_S = 1.0
MOST_WAIT_S = 12.0  # for nodes that do not answer
CLOCKS_S = 180  # a clock is measured once a minute
LATE = 3  # looks that a node may have missed at the end


def look_once(source: NodeSource) -> Snapshot:
    """The nodes now, as soon as rates, GPUs and clocks are known; after a while without them."""
    settings = cluster.load(source.hostfile)[0]
    live = Live([node.name for node in source.nodes])
    looks: dict[str, int] = {}
    began_s = time.monotonic()
    with Connections(settings.ssh) as remote:
        collector = Collector(source.nodes, remote, EVERY_S, settings.clock)
        collector.start()
        for found in collector.rounds():
            for look in found.looks:
                looks[look.node.name] = looks.get(look.node.name, 0) + 1
            snapshot = live.update(found)
            late = time.monotonic() - began_s > MOST_WAIT_S
            if late or all(_is_known(node, looks) for node in snapshot.nodes):
                break
        collector.stop()
    return live.snapshot


def last_snapshot(folder: Path, names: Sequence[str], unix_s: int, every_s: float) -> Snapshot:
    """The nodes at the newest look; one that was silent then has a fault."""
    silent = Fault(FaultKind.UNREACHABLE, "no look at the end of what is stored")
    nodes = {name: NodeNow(name, fault=silent) for name in names}
    begin = unix_s - max(LATE * round(every_s), store.MINUTE_S)
    for rows in store.read_looks(folder, begin, unix_s + 1, names):
        seen = nodes[rows.node].seen_unix_s
        if seen is None or rows.unix_s[-1] > seen:
            values = read(rows.blobs[-1], rows.layout)
            nodes[rows.node] = NodeNow(rows.node, values, seen_unix_s=rows.unix_s[-1])
    for row in store.read_clocks(folder, unix_s - CLOCKS_S, unix_s + 1, names):
        clock = NodeClock(Node(row.node), offset=Measured(row.offset_s, row.bound_s))
        nodes[row.node] = replace(nodes[row.node], clock=clock)
    return Snapshot(unix_s, tuple(nodes[name] for name in names))


def exit_code(snapshot: Snapshot) -> ExitCode:
    """As for every command over many nodes."""
    return exit_code_of(node.fault for node in snapshot.nodes)


def _is_known(node: NodeNow, looks: Mapping[str, int]) -> bool:
    if node.fault:
        return True
    if node.values is None or looks.get(node.name, 0) < 2 or node.clock is None:
        return False
    has_driver = "nvidia_smi" in node.values.facts["node"]
    return not has_driver or bool(node.gpu_values("power_w")) or bool(node.values.odd)
