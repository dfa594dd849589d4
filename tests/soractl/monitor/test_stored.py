from soractl.monitor.store import Store
from soractl.monitor.stored import last_snapshot
from tests.soractl.monitor.seen import NOON, values


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
