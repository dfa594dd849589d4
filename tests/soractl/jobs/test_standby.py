import pytest

from soractl.jobs import standby
from soractl.jobs.standby import stand_by
from soractl.queue.record import JobRecord, read_record, write_record
from soractl.queue.slurm import Slurm
from soractl.remote.requests import NodeResult
from soractl.runs.events import read_events
from soractl.supervise.lease import Lease, Sight
from trainer.run_dir import create_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(standby, "BEAT_S", 0.01)
    monkeypatch.setattr(standby, "Sight", lambda: Sight(lease_s=0.05))
    run = create_run(tmp_path, "smoke")
    write_record(run.new_attempt(), JobRecord(job_id=12))
    return run


class Queue:
    """A Remote in which job 12 runs on some nodes."""

    def __init__(self, nodes):
        self.nodes, self.typed = nodes, []

    def __call__(self, node, request, deadline_s):
        if request.argv[0] == "squeue":
            return NodeResult(node, f"12|RUNNING|N/A|{self.nodes}|None\n", exit_code=0)
        self.typed.append(request.argv)
        return NodeResult(node, exit_code=0)


def test_a_job_that_lost_its_batch_shells_node_goes_back_into_the_queue(run):
    assert Lease(run.supervisor).take()
    queue = Queue("n[2-3]")
    assert stand_by(run, 12, "n1", Slurm(queue)) == "requeued"
    assert queue.typed == [("scontrol", "requeue", "12")]
    assert read_record(run.attempts()[0]).then == "requeued"
    assert [(event.kind, event.by) for event in read_events(run)] == [("requeued", "standby")]


def test_it_leaves_with_the_supervisor(run):
    lease = Lease(run.supervisor)
    assert lease.take()
    lease.renew("finished", "", ended=True)
    queue = Queue("n[1-3]")
    assert stand_by(run, 12, "n1", Slurm(queue)) == "the supervisor has left"
    assert queue.typed == []


def test_a_silent_supervisor_whose_node_is_in_the_job_is_left_to_slurm(run, monkeypatch):
    assert Lease(run.supervisor).take()
    queue = Queue("n[1-3]")
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 200:
            raise TimeoutError
        real(seconds / 10)

    real = standby.time.sleep
    monkeypatch.setattr(standby.time, "sleep", sleep)
    with pytest.raises(TimeoutError):
        stand_by(run, 12, "n1", Slurm(queue))
    assert queue.typed == []


def test_what_slurm_refuses_for_a_while_is_tried_again_and_noted_once(run):
    assert Lease(run.supervisor).take()
    busy = {"squeue": 2, "scontrol": 2}
    queue = Queue("n[2-3]")

    def refuses_at_first(node, request, deadline_s):
        if busy[request.argv[0]]:
            busy[request.argv[0]] -= 1
            return NodeResult(node, stderr="busy", exit_code=1)
        return queue(node, request, deadline_s)

    assert stand_by(run, 12, "n1", Slurm(refuses_at_first)) == "requeued"
    assert queue.typed == [("scontrol", "requeue", "12")]
    assert [event.kind for event in read_events(run)] == ["requeued"]
