"""The newest numbers of all nodes as they are stored, for a page without a monitor."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from soractl.errors import Fault, FaultKind
from soractl.health.clock import Measured
from soractl.health.clock_watch import NodeClock
from soractl.monitor import store
from soractl.monitor.live import NodeNow, Snapshot
from soractl.monitor.record import read
from soractl.remote.nodes import Node

CLOCKS_S = 180  # a clock is measured once a minute
LATE = 3  # looks that a node may have missed at the end


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
