"""Pairs on nodes of the test cluster, where `tc` makes one node's link slow."""

import os
import random
from contextlib import contextmanager

import pytest

from soractl.doctor.measure_pairs import Bench
from soractl.launch.prepare import LaunchOptions, site_of
from soractl.launch.start_point import StartPoint
from soractl.remote.connections import Connections

NODES = 4
PLANTED = int(os.environ.get("SORACTL_PLANTED_LINKS", "3"))
SHAPE = ("rate", "20mbit", "burst", "32k", "latency", "400ms")


@contextmanager
def slow_link(cluster, number):
    """A node whose packets leave at 20 Mbit/s."""
    link = ("node", str(number), "tc", "qdisc")
    cluster.do(*link, "add", "dev", "eth0", "root", "tbf", *SHAPE)
    try:
        yield
    finally:
        cluster.do(*link, "del", "dev", "eth0", "root")


@pytest.mark.slow  # torch on four nodes, and links at 20 Mbit/s
def test_a_slow_link_is_named_by_its_node_every_time(start_cluster, tmp_path):
    cluster = start_cluster(NODES)
    hosts = tmp_path / "nodes.txt"
    hosts.write_text(f"n[1-{NODES}] slots=1\n")
    hosts.with_suffix(".toml").write_text('[env]\nGLOO_SOCKET_IFNAME = "eth0"\n')
    site = site_of(LaunchOptions(hostfile=str(hosts)), os.environ)
    plan = site.plan(tmp_path / "runs/pairs", StartPoint("fresh"))
    draw = random.Random(7)
    missed = []
    with cluster.network(), Connections(cluster.options) as remote:
        bench = Bench(plan, site, remote)
        assert (bench.two_rounds().nodes, bench.device) == ([], "cpu")
        for planted in (draw.randint(1, NODES) for _ in range(PLANTED)):
            with slow_link(cluster, planted):
                found = bench.two_rounds()
            if found.nodes != [f"n{planted}"]:
                missed.append((planted, found.speeds, found.errors))
    assert missed == []
