from soractl.errors import Fault, FaultKind
from soractl.monitor.collect import NodeLook, Round
from soractl.monitor.live import Live, NodeNow
from soractl.remote.nodes import Node
from tests.soractl.monitor.seen import NOON, clock, snapshot, values

FAULT = Fault(FaultKind.UNREACHABLE, "gone")


def test_a_silent_node_says_why_and_when_it_was_seen_last():
    live = Live(["n1"])
    live.update(Round(NOON, (NodeLook(Node("n1"), NOON, values()),)))
    [node] = live.update(Round(NOON + 5, (NodeLook(Node("n1"), NOON + 5, fault=FAULT),))).nodes
    assert node == NodeNow("n1", None, FAULT, None, NOON)


def test_a_clock_stays_known_between_its_measurements():
    live = Live(["n1"])
    look = (NodeLook(Node("n1"), NOON, values()),)
    live.update(Round(NOON, look, (clock("n1", 0.25),)))
    [node] = live.update(Round(NOON + 5, look)).nodes
    assert node.clock.offset.value == 0.25


def test_what_is_odd_stands_at_its_node_until_the_next_look():
    live = Live(["n1", "n2"])
    look = (NodeLook(Node("n1"), NOON, values()),)
    live.update(Round(NOON, look))
    nodes = live.mark_odd({"n1": ["GPU 2: power 270 W below its siblings"]}).nodes
    assert [node.odd for node in nodes] == [("GPU 2: power 270 W below its siblings",), ()]
    assert live.snapshot.as_json()["nodes"][0]["odd"] == ["GPU 2: power 270 W below its siblings"]
    assert [node.odd for node in live.mark_odd({}).nodes] == [(), ()]


def test_sums_leave_out_what_is_unknown():
    [first, second, third] = snapshot().nodes
    assert (first.power_w, first.rate("ports", "in"), first.rate("links", "out")) == (
        612.04,
        1e9,
        None,
    )
    assert (second.power_w, third.rate("ports", "in")) == (None, None)
    assert snapshot().power_w == 612.04


def test_json_has_every_node_and_null_for_what_is_unknown():
    first, second, third = snapshot().as_json()["nodes"]
    assert first["gpus"][0]["gpu"] == 0
    assert first["gpus"][1]["power_w"] is None
    assert first["clock_offset_s"] == -0.0125
    assert first["clock_daemon"] == "chrony from 10.0.0.1"
    assert second["error"] == "unreachable: no route to host"
    assert (second["gpus"], second["seen_unix_s"]) == ([], NOON - 60)
    assert (third["error"], third["seen_unix_s"]) == (None, None)
