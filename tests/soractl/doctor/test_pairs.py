import itertools
import random

import pytest

from soractl.doctor.pairs import first_round, second_round, slow_nodes, slow_pairs


def names(count):
    return [f"n{i}" for i in range(1, count + 1)]


def rounds(count, slow=(), seed=0, links=()):
    """Speeds of both rounds, where every pair of a slow node is at a tenth."""
    rng = random.Random(seed)

    def speed(pair):
        is_slow = {*pair} & {*slow} or {*pair} in map(set, links)
        return rng.uniform(0.85, 1.15) * (0.1 if is_slow else 1.0)

    speeds = {}
    for turn in first_round(names(count)):
        speeds |= {pair: speed(pair) for pair in turn}
    for turn in second_round(names(count), speeds):
        speeds |= {pair: speed(pair) for pair in turn}
    return speeds


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 23, 24])
def test_every_node_is_measured_and_none_twice_at_once(count):
    turns = first_round(names(count))
    assert {name for turn in turns for pair in turn for name in pair} == {*names(count)}
    for turn in turns:
        members = [name for pair in turn for name in pair]
        assert len(members) == len({*members})


@pytest.mark.parametrize("count", [3, 4, 5, 6, 8, 23, 24])
def test_one_slow_node_is_named_whichever_it_is(count):
    for slow in names(count):
        assert slow_nodes(rounds(count, [slow], seed=count)) == [slow]


def test_two_slow_nodes_of_a_fleet_are_named_also_as_neighbours():
    for pair in itertools.combinations(names(10), 2):
        assert sorted(slow_nodes(rounds(10, pair))) == sorted(pair)


def test_a_good_fleet_has_none_and_needs_one_round():
    speeds = rounds(24)
    assert slow_pairs(speeds) == slow_nodes(speeds) == []
    assert len(speeds) == 12


def test_two_nodes_that_are_slow_only_together_are_a_link_and_not_a_node():
    speeds = rounds(8, links=[("n1", "n2")])
    assert slow_pairs(speeds) == [("n1", "n2")]
    assert slow_nodes(speeds) == []


def test_of_two_nodes_alone_neither_can_be_blamed():
    assert slow_nodes({("n1", "n2"): 0.0}) == []
    assert slow_pairs({("n1", "n2"): 0.0}) == [("n1", "n2")]
