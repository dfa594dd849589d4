import pytest

from soractl.jobs import cancel as cancelling
from soractl.jobs.cancel import Cancelled, cancel_job, confirm, stop_job
from soractl.queue.record import JobRecord, open_job, write_record
from soractl.queue.slurm import Slurm
from soractl.queue.slurm_answers import SlurmEntry
from soractl.remote.requests import NodeResult
from soractl.runs.events import read_events
from trainer.run_dir import create_run

WAITING = SlurmEntry(12, "PENDING", reason="Priority")
RUNNING = SlurmEntry(12, "RUNNING", nodes="n1")


class Queue:
    """A Remote in whose queue job 12 stays until one of `ends` is typed."""

    def __init__(self, state, *ends):
        self.state, self.ends, self.typed = state, ends, []

    def __call__(self, node, request, deadline_s):
        line = " ".join(request.argv)
        if request.argv[0] == "squeue":
            return NodeResult(node, stdout=f"12|{self.state}|N/A||None\n", exit_code=0)
        self.typed.append(line)
        if line in self.ends:
            self.state = "CANCELLED"
        return NodeResult(node, exit_code=0)


SAVE, CANCEL = "scancel --batch --signal=INT 12", "scancel 12"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(cancelling, "POLL_S", 0.01)
    monkeypatch.setattr(cancelling, "LEAVE_S", 0.1)
    run = create_run(tmp_path, "smoke")
    write_record(run.new_attempt(), JobRecord(job_id=12))
    return run


@pytest.mark.parametrize(
    ("state", "ends", "typed"),
    [
        ("PENDING", [CANCEL], [CANCEL]),
        ("RUNNING", [SAVE], [SAVE]),
        ("RUNNING", [CANCEL], [SAVE, CANCEL]),  # it did not save within its grace
    ],
)
def test_a_running_job_may_save_before_it_is_cancelled(run, state, ends, typed):
    queue = Queue(state, *ends)
    cancelled = confirm(cancel_job(run, Slurm(queue), grace_s=0.05), Slurm(queue))
    assert queue.typed == typed
    assert (cancelled.before.state, cancelled.left, cancelled.exit_code) == (state, None, 0)
    assert [event.kind for event in read_events(run)] == ["stop requested", "killed"]
    assert open_job(run) is None


def test_a_job_that_stays_is_a_failure(run):
    slurm = Slurm(Queue("COMPLETING"))
    cancelled = confirm(cancel_job(run, slurm, grace_s=0.05), slurm)
    assert (cancelled.left.state, cancelled.exit_code) == ("COMPLETING", 1)
    assert cancelled.lines() == ["job 12 of 001-smoke does not leave: completing as job 12"]
    assert open_job(run) is not None


def test_a_job_that_only_waits_for_its_nodes_is_not_waited_for_before_they_are_emptied(
    run, monkeypatch
):
    monkeypatch.setattr(cancelling, "LEAVE_S", 60.0)
    slurm = Slurm(Queue("COMPLETING"))
    cancelled = cancel_job(run, slurm, grace_s=60)
    assert cancelled.left.state == "COMPLETING"
    slurm.remote.state = "COMPLETED"
    assert confirm(cancelled, slurm).left is None


def test_a_dry_run_only_looks(run):
    queue = Queue("PENDING")
    cancelled = cancel_job(run, Slurm(queue), grace_s=None)
    assert queue.typed == []
    assert cancelled.lines() == ["would cancel job 12 of 001-smoke: waiting as job 12"]


def test_a_job_that_has_left_the_queue_is_none(run):
    assert cancel_job(run, Slurm(Queue("COMPLETED")), grace_s=1) is None


def test_what_became_of_a_job_for_programs(run):
    assert Cancelled(run, 12, WAITING, RUNNING).as_json() == {
        "job_id": 12,
        "before": WAITING.as_json(),
        "left": RUNNING.as_json(),
    }


def test_a_stop_asks_for_a_save_and_cancels_nothing(run):
    queue = Queue("RUNNING", SAVE)
    stopped = stop_job(run, Slurm(queue), timeout_s=5)
    assert queue.typed == [SAVE]
    assert (stopped.left, stopped.exit_code) == ((), 0)
    assert [event.kind for event in read_events(run)] == ["stop requested"]


def test_a_stop_that_takes_too_long_says_what_is_left(run):
    stopped = stop_job(run, Slurm(Queue("RUNNING")), timeout_s=0.05)
    assert (stopped.left, stopped.exit_code) == ((("job 12", 0),), 124)


@pytest.mark.parametrize("state", ["PENDING", "COMPLETED"])
def test_only_a_job_that_runs_can_be_stopped(run, state):
    assert stop_job(run, Slurm(Queue(state)), timeout_s=1) is None
