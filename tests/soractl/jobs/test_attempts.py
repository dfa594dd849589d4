import time

import pytest

from soractl.jobs.attempts import attempts_without_checkpoint, cut_off, settled
from soractl.queue.slurm import Slurm
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult
from soractl.runs.record import node_as_json
from trainer.atomic_files import write_json
from trainer.run_dir import RunDir, create_run

PLAN = {
    "run_id": "/runs/001-smoke",
    "workdir": "/",
    "world_size": 2,
    "start": {"kind": "fresh", "path": None, "reset_data": False},
    "started_unix_s": 0.0,
    "ssh": {},
    "nodes": [{**node_as_json(Node(name)), "ranks": 1} for name in ("n1", "n2")],
}


@pytest.fixture
def attempt(tmp_path):
    attempt = create_run(tmp_path, "smoke").new_attempt()
    write_json(attempt.plan, PLAN)
    return attempt


def ended(attempt, n1=None, n2=None):
    for name, code in (("n1", n1), ("n2", n2)):
        if code is not None:
            attempt.node_exit(name).write_text(f"{code}\n")


def account(attempt, rank):
    values = {"rank": rank, "error": "lost", "traceback": None, "time_unix_s": time.time()}
    write_json(attempt.rank_failure(rank), values)


def result(attempt, **options):
    outcome = settled(attempt, patience_s=0, **options)
    return outcome.exit_code, outcome.first_failure and outcome.first_failure.stopped


def test_an_attempt_that_ended_well_has_no_failure(attempt):
    ended(attempt, 0, 0)
    assert result(attempt) == (0, None)


@pytest.mark.parametrize("codes", [(143, 143), (143, None), (None, None)])
def test_ranks_that_a_signal_ended_have_been_stopped(attempt, codes):
    ended(attempt, *codes)
    account(attempt, 1)
    assert result(attempt) == (143, True)


def test_a_rank_that_failed_is_a_failure(attempt):
    ended(attempt, 1, 1)
    account(attempt, 1)
    assert result(attempt) == (1, False)


def test_what_follows_a_request_to_leave_is_a_stop_unless_rank_0_says_why_not(attempt):
    ended(attempt, 1, 1)
    account(attempt, 1)
    assert result(attempt, is_asked=True) == (143, True)
    account(attempt, 0)
    assert result(attempt, is_asked=True) == (1, False)


class Nodes:
    """A Remote whose sinfo says which nodes are drained or down."""

    def __init__(self, lines):
        self.lines = lines

    def __call__(self, node, request, deadline_s):
        return NodeResult(node, self.lines, exit_code=0)


@pytest.mark.parametrize(
    ("lines", "node", "error"),
    [
        ("n2|down*|Not responding\n", "n2", "Slurm lost it: Not responding"),
        ("n1|drained|maintenance\n", "n1", "Slurm ended it: it left no exit code"),
        ("", "n1", "Slurm ended it: it left no exit code"),
    ],
)
def test_an_attempt_that_was_cut_off_names_the_node_that_is_down(attempt, lines, node, error):
    outcome = cut_off(attempt, Slurm(Nodes(lines)))
    assert (outcome.exit_code, outcome.first_failure.node) == (1, node)
    assert outcome.first_failure.error == error
    assert not outcome.first_failure.stopped


def test_an_attempt_is_settled_though_slurm_does_not_answer(attempt):
    def refuses(node, request, deadline_s):
        return NodeResult(node, stderr="no controller", exit_code=1)

    assert cut_off(attempt, Slurm(refuses)).first_failure.error == (
        "Slurm ended it: it left no exit code"
    )


def test_attempts_that_added_no_checkpoint_are_counted_from_the_newest(tmp_path, save_checkpoint):
    run = RunDir(tmp_path / "001-smoke")
    run.checkpoints_folder.mkdir(parents=True)

    def began(kind, path):
        write_json(run.new_attempt().plan, {"start": {"kind": kind, "path": path}})

    began("fresh", None)
    assert attempts_without_checkpoint(run) == 1
    saved = str(save_checkpoint(run, 3).path)
    assert attempts_without_checkpoint(run) == 0
    began("resume", saved)
    began("resume", saved)
    assert attempts_without_checkpoint(run) == 2
