"""Monitoring of real nodes: sshd, /proc and interfaces of their own, nvidia-smi as a stand-in."""

import time

import pytest

from soractl.cluster.settings import ClockPolicy
from soractl.errors import FaultKind
from soractl.monitor.collect import Collector
from soractl.monitor.live import Live
from soractl.remote.connections import Connections

pytestmark = [pytest.mark.slow, pytest.mark.ssh]  # starts a cluster


def test_three_nodes_are_watched_and_one_that_goes_is_a_row_until_it_is_back(start_cluster):
    cluster = start_cluster(3)
    for number in ("1", "2", "3"):  # with the interfaces of the node, not of this machine
        cluster.do("node", number, "mount", "-t", "sysfs", "sysfs", "/sys")
    live = Live([node.name for node in cluster.nodes])

    def watch(until, seconds=90):
        end = time.monotonic() + seconds
        for found in collector.rounds():
            snapshot = live.update(found)
            if until(*snapshot.nodes):
                return snapshot
            assert time.monotonic() < end, snapshot.as_json()
        raise AssertionError("the collector ended")

    with cluster.network(), Connections(cluster.options) as remote:
        collector = Collector(cluster.nodes, remote, 0.5, ClockPolicy())
        collector.start()
        snapshot = watch(
            lambda *nodes: all(
                node.values and len(node.values.gpus) == 8 and node.clock for node in nodes
            )
        )
        for node in snapshot.nodes:
            assert len(node.gpu_values("power_w")) == 8
            assert list(node.values.links) == ["eth0"]
            assert abs(node.clock.offset.value) <= node.clock.offset.bound
        watch(lambda *nodes: all((node.rate("links", "in") or 0) > 0 for node in nodes))

        cluster.do("lose", "2")
        gone = watch(lambda _, second, __: second.fault is not None).nodes
        assert gone[1].fault.kind is FaultKind.UNREACHABLE
        assert gone[1].values is None
        again = live.snapshot.nodes[0].seen_unix_s
        watch(lambda first, _, third: min(first.seen_unix_s, third.seen_unix_s) > again)

        cluster.do("find", "2")
        watch(lambda _, second, __: second.values is not None)
        collector.stop()
