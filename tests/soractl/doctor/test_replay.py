import json
import os
import sys
from pathlib import Path

import pytest

from soractl.doctor.measure_pairs import Bench
from soractl.doctor.replay import Replayed, judge, replayed
from soractl.launch.prepare import LaunchOptions, site_of
from soractl.launch.start_point import StartPoint
from soractl.remote.connections import Connections

RECORDED = Path(__file__).parents[2] / "recorded" / "h200-node"

# A rank as it is, one that flips a bit of its gradients, and one that takes its time.
RANKS = {
    "good": "",
    "flips": (
        "step = r._step\n"
        "def flipped(gradient):\n"
        "    bits = gradient.view(torch.int32)\n"
        "    bits[0] ^= 1\n"
        "    return gradient\n"
        "def flipping(model, given):\n"
        "    model.x_embedder.proj.bias.register_hook(lambda g: flipped(g.clone()))\n"
        "    return step(model, given)\n"
        "r._step = flipping\n"
    ),
    "slow": (
        "wait = r._wait\n"
        "r._wait = lambda device: (time.sleep(1), wait(device))\n"
    ),
}  # fmt: skip


def answers(*changes, count=8, device="NVIDIA H200"):
    found = [Replayed(f"n{i}", 0, device, "abc", 0.1) for i in range(count)]
    for index, change in changes:
        found[index] = Replayed(**{**vars(found[index]), **change})
    return found


def states(*changes, kind="cuda", **more):
    return [state for _, state in judge(answers(*changes, **more), kind)]


def test_equal_ranks_are_good():
    assert states() == ["good"] * 8


def test_one_rank_with_other_bits_and_one_that_is_slow_are_found():
    found = states((2, {"digest": "abd"}), (5, {"seconds": 0.15}))
    assert found == ["good", "good", "other bits", "good", "good", "slow", "good", "good"]


def test_a_rank_that_disagrees_with_itself_is_wrong_also_alone():
    assert states((0, {"digest": "abc abd"}), count=1) == ["other bits"]


def test_two_that_differ_are_unknown_and_other_devices_are_not_compared():
    assert states((0, {"digest": "abd"}), count=2) == ["unknown", "unknown"]
    other = {"digest": "xyz", "device": "NVIDIA H100"}
    assert states((0, other), (1, other), count=4) == ["good"] * 4


def test_a_rank_without_an_answer_is_unknown():
    assert states((1, {"error": "out of memory"}), count=3)[1] == "unknown"


@pytest.mark.parametrize(
    ("file", "state"),
    [("replay.json", "good"), ("replay-any-order.json", "unknown")],
    ids=["kernels in order", "kernels in any order"],
)
def test_two_h200_agree_where_kernels_add_up_in_order(file, state):
    ranks = json.loads((RECORDED / file).read_text())["ranks"]
    found = [Replayed(**{key: one[key] for key in vars(Replayed("", 0))}) for one in ranks]
    assert [verdict for _, verdict in judge(found, "cuda")] == [state, state]


def program(plant):
    code = f"import time, torch\nimport trainer.step_replay as r\n{plant}r.main()"
    return (sys.executable, "-c", code)


@pytest.mark.slow  # five times torch
def test_processes_of_torch_agree_but_for_one_that_flips_a_bit_and_one_that_is_slow(tmp_path):
    site = site_of(LaunchOptions(), os.environ)
    plan = site.plan(tmp_path / "runs/replay", StartPoint("fresh"))
    with Connections() as remote:
        bench = Bench(plan, site, remote, program="trainer.step_replay")
        here = plan.nodes[0].node
        for name, plant in {**RANKS, "also good": "", "third": ""}.items():
            bench.ranks[name] = [remote.dialogue(here, program(plant), 60)]
        found = {one.node: state for one, state in judge(replayed(bench), "cpu")}
    assert found == {
        "good": "good",
        "flips": "other bits",
        "slow": "slow",
        "also good": "good",
        "third": "good",
    }
