"""Snapshots of nodes for the tests of what shows them."""

from soractl.errors import Fault, FaultKind
from soractl.health.clock import Measured, Verdict
from soractl.health.clock_watch import NodeClock
from soractl.health.time_daemon import TimeDaemon
from soractl.monitor.live import NodeNow, Snapshot
from soractl.monitor.sample import Values
from soractl.remote.nodes import Node

NOON = 1_796_040_000
GPU = {
    "power_w": 612.04,
    "util_pct": 99.0,
    "temp_c": 61.0,
    "clock_mhz": 1755.0,
    "mem_mib": 1024.0,
    "reasons": 4.0,
}


def values(**gpu):
    return Values(
        node={"load": 2.5, "cpu_pct": 10.0, "mem_available_mib": 2048.0},
        gpus={0: {**GPU, **gpu}, 1: {**GPU, "power_w": None}},
        ports={"mlx5_1/1": {"in_bytes_per_s": 1e9, "out_bytes_per_s": 2e9}},
        links={"eno1": {"in_bytes_per_s": 1000.0, "out_bytes_per_s": None}},
        facts={"node": {}},
    )


def clock(name, offset=0.0):
    daemon = TimeDaemon(("chrony",), kept=True, source="10.0.0.1")
    return NodeClock(
        Node(name), offset=Measured(offset, 1e-4), daemon=daemon, verdict=Verdict("good")
    )


def snapshot():
    """One node that answers, one that is silent, one that was never seen."""
    silent = Fault(FaultKind.UNREACHABLE, "no route to host")
    return Snapshot(
        NOON,
        (
            NodeNow("n1", values(), None, clock("n1", -0.0125), NOON),
            NodeNow("n2", None, silent, None, NOON - 60),
            NodeNow("n3"),
        ),
    )
