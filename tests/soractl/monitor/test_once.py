from soractl.errors import ExitCode
from soractl.monitor.once import exit_code, look_once
from soractl.remote.nodes import NodeSource, this_machine
from tests.soractl.monitor.seen import snapshot


def test_one_look_has_rates_gpus_and_the_clock(two_gpus):
    found = look_once(NodeSource((this_machine(),), "this machine"))
    [node] = found.nodes
    assert [gpu["power_w"] for gpu in node.values.gpus.values()] == [612.04, 612.04]
    assert node.values.node["cpu_pct"] is not None
    assert node.clock.verdict.level == "good"
    assert exit_code(found) is ExitCode.OK


def test_a_silent_node_makes_the_exit_code():
    assert exit_code(snapshot()) is ExitCode.SOME_UNREACHABLE
