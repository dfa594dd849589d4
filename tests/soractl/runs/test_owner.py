import os

from soractl.runs.owner import other_owner
from tests.soractl.runs.users import NOBODY


def test_ones_own_file_and_one_that_is_not_there_have_no_other_owner(tmp_path):
    assert other_owner(tmp_path) is None
    assert other_owner(tmp_path / "none") is None


def test_root_may_look_at_every_users_processes_and_needs_no_owner(roots_run):
    os.chown(roots_run.path, NOBODY, NOBODY)
    assert other_owner(roots_run.path) is None


def test_another_user_is_named_and_one_without_a_name_by_the_number(roots_run, as_nobody):
    assert other_owner(roots_run.path) == "root"
    os.seteuid(0)
    os.chown(roots_run.path, 54321, 54321)
    os.seteuid(NOBODY)
    assert other_owner(roots_run.path) == "user 54321"
