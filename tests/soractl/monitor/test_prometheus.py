import json
import re
from dataclasses import replace
from pathlib import Path

from soractl.monitor import prometheus
from soractl.monitor.live import NodeNow, Snapshot
from tests.soractl.monitor.seen import snapshot


def lines(found):
    return [line for line in prometheus.text(found).splitlines() if not line.startswith("#")]


def test_known_numbers_have_a_line_each_and_unknown_ones_none():
    found = lines(snapshot())
    assert [line for line in found if line.startswith("soractl_node_up")] == [
        'soractl_node_up{node="n1"} 1',
        'soractl_node_up{node="n2"} 0',
        'soractl_node_up{node="n3"} 0',
    ]
    assert [line for line in found if "power" in line] == [
        'soractl_gpu_power_watts{node="n1",gpu="0"} 612.04'
    ]
    assert 'soractl_gpu_utilization_ratio{node="n1",gpu="0"} 0.99' in found
    assert 'soractl_clock_offset_seconds{node="n1"} -0.0125' in found
    assert [line for line in found if "ethernet" in line] == [
        'soractl_ethernet_bytes_per_second{node="n1",interface="eno1",direction="in"} 1000'
    ]


def test_every_metric_is_described_once():
    text = prometheus.text(snapshot())
    described = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert described == list(prometheus.HELP)
    assert {line.partition("{")[0] for line in lines(snapshot())} <= set(described)


def test_names_are_escaped():
    node = replace(NodeNow("n"), name='a"b\\c\nd')
    [line] = lines(Snapshot(1, (node,)))
    assert line == 'soractl_node_up{node="a\\"b\\\\c\\nd"} 0'


def test_the_board_of_grafana_asks_for_metrics_that_there_are():
    board = json.loads((Path(__file__).parents[3] / "docs/grafana-board.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    named = {name for expression in asked for name in re.findall(r"soractl_\w+", expression)}
    assert named
    assert named <= set(prometheus.HELP)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
