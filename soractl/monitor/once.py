"""One look at all nodes, without a store: as soon as rates, GPUs and clocks are known."""

import time
from collections.abc import Mapping

from soractl.cluster import settings as cluster
from soractl.errors import ExitCode, exit_code_of
from soractl.monitor.collect import Collector
from soractl.monitor.live import Live, NodeNow, Snapshot
from soractl.remote.connections import Connections
from soractl.remote.nodes import NodeSource

EVERY_S = 1.0
PATIENCE_S = 12.0


def look_once(source: NodeSource) -> Snapshot:
    """The nodes' numbers; what is still unknown after a while stays unknown."""
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
            late = time.monotonic() - began_s > PATIENCE_S
            if late or all(_is_known(node, looks) for node in snapshot.nodes):
                break
        collector.stop()
    return live.snapshot


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
