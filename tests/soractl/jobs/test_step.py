import pytest

from soractl.jobs import step as steps
from soractl.jobs.step import Step
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.launch.start import create, write_attempt
from soractl.remote.connections import Connections
from tests.waiting import wait_for


@pytest.fixture
def attempt(slurm_here):
    prepared = prepare_launch("smoke", LaunchOptions(hostfile="n1,n2,", overrides=()), {})
    with Connections() as remote:
        run = create(prepared, ["s"], remote)
    return write_attempt(prepared, run, run.new_attempt()).attempt


def test_a_step_runs_each_nodes_script_to_its_end(attempt):
    for node in ("n1", "n2"):
        attempt.node_script(node).write_text(f"echo 0 > {attempt.node_exit(node)}\n")
    step = Step(attempt, "/runs/1")
    wait_for(lambda: not step.alive)
    assert [attempt.node_exit(node).read_text() for node in ("n1", "n2")] == ["0\n", "0\n"]
    assert not step.is_overdue
    step.end()


def test_a_step_of_which_one_node_failed_is_overdue_after_a_while(attempt, monkeypatch):
    monkeypatch.setattr(steps, "PEER_EXIT_GRACE_S", 0.3)
    attempt.node_script("n1").write_text(f"echo 1 > {attempt.node_exit('n1')}\n")
    attempt.node_script("n2").write_text("sleep 300\n")
    step = Step(attempt, "/runs/1")
    wait_for(lambda: step.is_overdue)
    assert step.alive
    step.end()
    assert not step.alive


def test_a_step_has_left_a_while_after_rank_0_noted_that_all_saved(attempt, monkeypatch):
    monkeypatch.setattr(steps, "LEAVE_S", 0.3)
    for node in ("n1", "n2"):
        attempt.node_script(node).write_text("sleep 300\n")
    step = Step(attempt, "/runs/1")
    assert not step.has_left
    attempt.stopped.write_text("{}")
    wait_for(lambda: step.has_left)
    assert step.alive
    step.end()
