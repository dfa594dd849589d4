import random
import warnings

import pytest

from soractl.monitor.live import NodeNow, Snapshot
from soractl.monitor.odd_now import EVERY, KEPT, Recent
from soractl.monitor.sample import Values

NOON = 1_796_040_000


def node(name, draw, *, slow=False, leaks_gib=0.0, downs=0):
    gpus = {}
    for index in range(4):
        power = 380 if slow and index == 2 else 650
        gpus[index] = {
            "power_w": power + draw.gauss(0, 5),
            "util_pct": 99.0,
            "temp_c": 60 + draw.gauss(0, 0.5),
            "clock_mhz": 1755 + draw.gauss(0, 5),
            "mem_mib": 7e4,
            "reasons": 4.0,
        }
    rate = 1e10 * (1 + draw.gauss(0, 0.01))
    return NodeNow(
        name,
        Values(
            node={"load": 1.0, "mem_available_mib": 1e6 - 1024 * leaks_gib},
            gpus=gpus,
            ports={"mlx5_1/1": {"in_bytes_per_s": rate, "out_bytes_per_s": rate}},
            counters={"mlx5_1/1 link_downed": downs},
            facts={"node": {"mem_total_mib": "1500000"}},
        ),
        seen_unix_s=NOON,
    )


def watch(of_look, looks=KEPT, every_s=5):
    """What is odd after so many looks at eight nodes, one of which does something else."""
    draw, recent, found = random.Random(1), Recent(), {}
    for look in range(looks):
        nodes = [node(f"n{i}", draw) for i in range(7)]
        nodes.append(of_look(look, draw))
        found = recent.add(Snapshot(NOON + every_s * look, tuple(nodes)))
    return found


def test_a_quiet_cluster_has_nothing_odd():
    assert watch(lambda _, draw: node("n7", draw)) == {}


def test_a_gpu_that_gets_slow_is_named_with_its_size_and_its_begin():
    found = watch(lambda look, draw: node("n7", draw, slow=look > 150))
    assert list(found) == ["n7"]
    [text] = found["n7"]
    assert text.startswith("GPU 2: power 2")
    assert " W below its siblings since " in text


def test_a_link_that_flaps_is_named():
    found = watch(lambda look, draw: node("n7", draw, downs=max(0, (look - 200) // 10)))
    [text] = found["n7"]
    assert text.startswith("mlx5_1/1: link went down ")


def test_memory_that_leaks_is_named():
    found = watch(lambda look, draw: node("n7", draw, leaks_gib=max(0, look - 100)))
    [text] = found["n7"]
    assert text.startswith("memory ")
    assert " GiB above its siblings since " in text


@pytest.mark.parametrize("first", [NodeNow("n7"), NodeNow("n7", Values(node={}))])
def test_a_node_without_numbers_is_no_odd_one_and_no_warning(first):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert watch(lambda _, draw: first, looks=60) == {}


def test_looks_that_come_sooner_than_the_rule_s_period_are_passed_over():
    recent = Recent()
    for look in range(EVERY * 5):
        recent.add(Snapshot(NOON + look, ()))
    assert len(recent._looks) == EVERY
