from soractl.errors import ExitCode
from soractl.monitor.once import exit_code, last_snapshot, look_once
from soractl.monitor.store import Store
from soractl.remote.nodes import NodeSource, this_machine
from tests.soractl.monitor.seen import NOON, snapshot, values


def test_one_look_has_rates_gpus_and_the_clock(two_gpus):
    found = look_once(NodeSource((this_machine(),), "this machine"))
    [node] = found.nodes
    assert [gpu["power_w"] for gpu in node.values.gpus.values()] == [612.04, 612.04]
    assert node.values.node["cpu_pct"] is not None
    assert node.clock.verdict.level == "good"
    assert exit_code(found) is ExitCode.OK


def test_a_silent_node_makes_the_exit_code():
    assert exit_code(snapshot()) is ExitCode.SOME_UNREACHABLE


def test_the_last_look_of_each_node_comes_back_and_silence_is_a_fault(tmp_path):
    kept = Store(tmp_path)
    kept.add(NOON - 60, {"n1": values(power_w=100.0)})
    kept.add(NOON, {"n1": values()})
    kept.add_clock(NOON - 30, "n1", -0.0125, 1e-4)
    kept.close()
    first, second = last_snapshot(tmp_path, ["n1", "n2"], NOON, 5.0).nodes
    assert first.seen_unix_s == NOON
    assert [round(value) for value in first.gpu_values("power_w")] == [612]
    assert first.values.gpus[1]["power_w"] is None
    assert round(first.rate("ports", "in")) == 1_000_000_000
    assert round(first.clock.offset.value, 6) == -0.0125
    assert str(second.fault) == "unreachable: no look at the end of what is stored"
