import os
import threading

import pytest

from soractl.cluster.settings import ClockPolicy
from soractl.errors import FaultKind
from soractl.monitor.collect import Collector, NodeProbe
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node, this_machine
from soractl.remote.ssh_command import SshFailure
from tests.waiting import wait_for


@pytest.fixture
def remote():
    with Connections() as remote:
        yield remote


def test_a_node_is_asked_over_one_kept_program(remote, two_gpus):
    probe = NodeProbe(this_machine(), remote, 0.2)
    wait_for(lambda: probe.look(0).values.gpus)
    dialogue = probe._dialogue
    first = probe.look(5).values
    assert first.gpus[1]["power_w"] == 612.04
    # two looks within a tick of the kernel's counters have no share of it
    wait_for(lambda: probe.look(5).values.node["cpu_pct"] is not None)
    assert probe._dialogue is dialogue


def test_a_node_that_cannot_be_reached_is_a_row_and_is_left_alone_for_a_while(remote):
    nobody = Node("192.0.2.1", port=1)
    opened = []

    class Unreachable:
        def dialogue(self, *arguments):
            opened.append(arguments)
            return remote.dialogue(nobody, ("true",), 0.1)

    probe = NodeProbe(nobody, Unreachable(), 30.0)
    looks = [probe.look(second) for second in range(3)]
    assert [look.fault.kind for look in looks] == [FaultKind.UNREACHABLE] * 3
    assert [look.values for look in looks] == [None] * 3
    assert len(opened) == 1


def test_a_node_whose_program_was_killed_is_asked_anew(remote, tmp_path):
    probe = NodeProbe(this_machine(), remote, 0.05)
    assert probe.look(0).values
    [process] = [one for one in remote._processes._running if one.poll() is None]
    os.killpg(process.pid, 9)
    process.wait()
    assert probe.look(1).fault.kind is FaultKind.UNREACHABLE
    wait_for(lambda: probe.look(2).values)


def test_a_field_that_a_driver_refuses_is_not_asked_for_again(remote, tmp_path, monkeypatch):
    program = """#!/bin/sh
case "$*" in *clocks.sm*) echo 'Field "clocks.sm" is not a valid field to query.'; exit 2 ;; esac
while :; do echo "0, 612.04, 99, 61, 71234, 0x4, 0, 0, 700.00, 81559, NVIDIA A100"; sleep 0.05; done
"""
    (tmp_path / "nvidia-smi").write_text(program)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    probe = NodeProbe(this_machine(), remote, 0.05)
    wait_for(lambda: probe.look(0).values.gpus)
    gpu = probe.look(1).values.gpus[0]
    assert (gpu["power_w"], gpu["clock_mhz"], gpu["mem_mib"]) == (612.04, None, 71234.0)


def test_rounds_hold_every_node_once_and_the_clocks(remote, two_gpus):
    collector = Collector([this_machine()], remote, 0.2, ClockPolicy())
    collector.start()
    rounds, clocks = [], []
    for found in collector.rounds():
        rounds.append(found)
        clocks += found.clocks
        if len(rounds) > 5 and clocks:
            break
    collector.stop()
    assert all(len(one.looks) == 1 for one in rounds)
    assert abs(clocks[0].offset.value) < 0.1


def test_a_node_that_hangs_holds_up_no_other(remote):
    ended = threading.Event()

    class Slow:
        def dialogue(self, node, argv, within_s):
            if node.name == "hangs":
                ended.wait(within_s)
                raise SshFailure("no answer")
            return remote.dialogue(this_machine(), argv, within_s)

        def __getattr__(self, name):
            return getattr(remote, name)

    nodes = [Node("hangs", local=True), Node("answers", local=True)]
    collector = Collector(nodes, Slow(), 0.5, ClockPolicy())
    collector.start()
    seen = []
    for found in collector.rounds():
        seen += [look.node.name for look in found.looks]
        if len(seen) >= 4:
            break
    ended.set()
    collector.stop()
    assert seen[:4] == ["answers"] * 4
