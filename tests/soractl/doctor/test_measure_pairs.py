"""Pairs on nodes of the test cluster, where `tc` makes one node's link slow."""

import os
import random
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from soractl.doctor.measure_pairs import Bench, measure
from soractl.doctor.replay import replay
from soractl.errors import SoractlError
from soractl.launch.prepare import LaunchOptions, site_of
from soractl.launch.start_point import StartPoint
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node, this_machine

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


# A rank that ends at the first question of one number, and answers others with their port.
RANK = """
import json, sys
for line in sys.stdin:
    given = json.loads(line)
    if given["port"] == 29600 and given["rank"] == 0:
        break
    print(json.dumps({"bytes_per_s": given["port"]}), flush=True)
"""
NO_TORCH = 'input(); print(\'{"error": "no libcudart"}\')'


# A rank whose first answer on n1 is ten times slower than all others.
HICCUP = """
import json, sys
slow = sys.argv[1] == "n1"
for line in sys.stdin:
    print(json.dumps({"bytes_per_s": 1e8 if slow else 1e9}), flush=True)
    slow = False
"""


class HereBench(Bench):
    """Ranks are a program on this machine."""

    def _start(self, node):
        argv = (sys.executable, "-c", self.program, node.node.name)
        return self.remote.dialogue(this_machine(), argv, 30)


def bench_of(*names):
    plan = SimpleNamespace(nodes=[SimpleNamespace(node=Node(name), ranks=1) for name in names])
    return HereBench(plan, SimpleNamespace(source=SimpleNamespace(origin="made up")), Connections())


@pytest.fixture
def bench():
    made = bench_of("n1", "n2")
    made.program = RANK
    with made.remote:
        yield made


def test_after_a_lost_rank_the_next_pair_has_its_own_answers(bench):
    bench.ranks = {node.node.name: [bench._start(node)] for node in bench.plan.nodes}
    lost, found = bench.speed(("n1", "n2")), bench.speed(("n1", "n2"))
    assert (lost, found) == ("the program on the node has ended", 29601.0)


def test_a_pair_that_was_slow_once_is_measured_again_and_blames_nobody():
    bench = bench_of("n1", "n2", "n3", "n4")
    bench.program = HICCUP
    with bench.remote:
        bench.ranks = {node.node.name: [bench._start(node)] for node in bench.plan.nodes}
        found = bench.two_rounds()
    assert (found.nodes, found.links, found.exit_code) == ([], [], 0)
    assert set(found.speeds.values()) == {1e9}


def test_a_node_whose_torch_does_not_start_is_named_with_the_reason(bench):
    bench.program = NO_TORCH
    with pytest.raises(SoractlError, match=r"^torch does not start on n1: no libcudart$"):
        bench.start()


@pytest.mark.parametrize(("ask", "option"), [(measure, "--pairs"), (replay, "--replay")])
def test_nodes_that_slurm_has_yet_to_name_are_not_asked(workplace, ask, option):
    workplace.write("hostfiles/nodes.txt", "a1\na2\n")
    workplace.write("hostfiles/nodes.toml", 'kind = "slurm"\nranks_per_node = 8\n')
    with pytest.raises(SoractlError, match="Slurm's until a job has them") as caught:
        ask("hostfiles/nodes.txt", "runs", os.environ)
    assert caught.value.hint == f"name some: `soractl health {option} node-[001-024]`"
