from dataclasses import replace

from soractl.evaluation.retries import MOST_TRIES, Retries


def test_a_failure_counts_for_its_own_save_of_its_own_checkpoint(item):
    retries = Retries(lambda: 0.0)
    assert retries.failed(item, disk_full=False) == 30.0
    assert (retries.may_try(item), retries.left(item)) == (False, MOST_TRIES - 1)
    assert retries.may_try(replace(item, digest="another save"))


def test_a_full_disk_lets_every_checkpoint_of_its_run_wait_until_there_is_room(item):
    now_s = 0.0
    retries = Retries(lambda: now_s)
    assert [retries.failed(item, disk_full=True) for _ in range(2)] == [30.0, 120.0]
    other = replace(item, digest="of another checkpoint")
    assert (retries.may_try(other), retries.left(item)) == (False, MOST_TRIES)
    now_s = 120.0
    assert retries.may_try(other)
    retries.worked(other)
    assert retries.failed(item, disk_full=True) == 30.0
