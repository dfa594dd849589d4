from dataclasses import replace

from tests.making import make_manifest
from trainer.data.position import Position, noted, resumed


def manifest(**more):
    return make_manifest(40, epoch=3, step=5, consumed=((2, 10),), costs={"240p-17": 2.0}, **more)


def test_a_run_goes_on_within_its_epoch():
    expected = Position(3, 5, 40, ((2, 10),), {"240p-17": 2.0})
    assert resumed(manifest(), 2) == expected
    assert resumed(manifest(), 3).consumed == ((2, 10), (3, 0))


def test_after_the_end_of_an_epoch_comes_the_next_in_the_order_that_was_agreed():
    over = manifest(epoch_is_over=True)
    assert resumed(over, 2) == Position(4, 0, 40, ((2, 0),), {"240p-17": 2.0})
    assert resumed(over, 3).consumed[-1] == (3, 0)


def test_what_is_noted_is_resumed():
    here = Position(3, 5, 40, ((2, 10), (3, 1)), {"240p-17": 2.0})
    assert resumed(replace(manifest(), **noted(here)), 3) == here


def test_the_end_of_an_epoch_is_noted_with_the_costs_that_order_the_next():
    ended = Position(3, 5, 40, ((2, 10),), {"240p-17": 2.0})
    following = ended.next_epoch({"240p-17": 3.0})
    fields = noted(following, ended)
    assert (fields["epoch"], fields["step"], fields["epoch_is_over"]) == (3, 5, True)
    assert resumed(replace(manifest(), **fields), 2) == following
