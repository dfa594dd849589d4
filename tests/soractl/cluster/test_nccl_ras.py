from pathlib import Path

import pytest

from soractl.cluster.nccl_ras import RasRank, frozen, parse

RECORDED = Path(__file__).parents[2] / "recorded/ras"


def recorded(name):
    return parse((RECORDED / name).read_text())


def counts(gathers, reduces):
    none = {"Broadcast": 0, "Reduce": 0, "ReduceScatter": 0}
    return {**none, "AllGather": gathers, "AllReduce": reduces}


def test_the_report_of_a_hang_names_the_rank_that_launched_fewer():
    [communicator] = recorded("ras-hang.json")
    assert (communicator.size, communicator.missing) == (2, ())
    assert communicator.lagging == (RasRank(1, "192.0.2.2", 776, counts(1, 60)),)


def test_a_single_report_of_a_healthy_run_differs_too_so_only_frozen_ones_are_a_sign():
    healthy, hung = recorded("ras-healthy.json"), recorded("ras-hang.json")
    assert [rank.rank for rank in healthy[0].lagging] == [0]
    assert not frozen([healthy, hung])
    assert not frozen([hung])
    assert not frozen([(), ()])
    assert frozen([hung, hung, hung])


def test_missing_ranks_are_read_though_nccl_leaves_out_a_comma():
    text = (RECORDED / "ras-hang.json").read_text()
    broken = '"missing_ranks": [ {"rank": 2, "host": "n2"}\n {"rank": 3, "host": "n2"} ]'
    before, _, after = text.partition('"missing_ranks": [')
    [communicator] = parse(before + broken + after.partition("]")[2])
    assert communicator.missing == (2, 3)


@pytest.mark.parametrize("answer", ["", "SERVER PROTOCOL 2\nOK\n", "{}", '{"communicators": 3}'])
def test_another_answer_is_no_report(answer):
    assert parse(answer) is None


def test_equal_counts_lag_nowhere():
    [communicator] = recorded("ras-hang.json")
    one = communicator.ranks[0]
    assert type(communicator)("0x1", 2, (one, one), ()).lagging == ()
