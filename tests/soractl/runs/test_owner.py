import os
from contextlib import nullcontext

from soractl.launch.follow import follow
from soractl.remote.folding import fold_names
from soractl.remote.nodes import Node
from soractl.runs.node_log import LogOptions, logs_of
from soractl.runs.owner import other_owner
from soractl.runs.record import node_as_json
from soractl.runs.status import list_runs, read_status
from soractl.terminal.progress_bar import PlainDisplay
from tests.soractl.runs.users import NOBODY, ask_as_nobody
from trainer.atomic_files import write_json


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


def test_reading_commands_work_for_another_user_and_write_nothing(roots_run, as_nobody):
    """Nobody sees the processes: the run is unknown, not failed, and a follower leaves it alone."""
    os.seteuid(0)
    fold_names(["n1"])  # loads a library from folders that only root may read here
    [attempt] = roots_run.attempts()
    nodes = [{**node_as_json(Node("n1")), "ranks": 1}]
    values = {"run_id": str(roots_run.path), "nodes": nodes, "ssh": {}, "started_unix_s": 0.0}
    write_json(attempt.plan, values)
    attempt.node_log("n1").write_text("a line\n")
    os.seteuid(NOBODY)
    status = read_status(roots_run, ask_as_nobody)
    [row] = list_runs(roots_run.path.parent, lambda _: nullcontext(ask_as_nobody))
    [log] = logs_of(roots_run, LogOptions())
    assert (status.state, status.nodes[0].owner) == ("unknown", "root")
    assert (row.state, row.nodes, log.last(5)) == ("unknown", ("n1",), ["a line"])
    assert row.note == "belongs to root, whose processes cannot be seen"
    os.seteuid(0)
    attempt.node_exit("n1").write_text("0\n")
    before = sorted(roots_run.path.rglob("*"))
    os.seteuid(NOBODY)
    outcome, _ = follow(roots_run, attempt, ask_as_nobody, PlainDisplay())
    assert outcome.exit_code == 0
    assert sorted(roots_run.path.rglob("*")) == before
