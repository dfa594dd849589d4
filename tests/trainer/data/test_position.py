from tests.making import make_manifest
from trainer.data.position import Position, resumed


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
