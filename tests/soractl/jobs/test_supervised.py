"""The supervisor's actions inside a job, with scripts in Slurm's place."""

import errno
import os

import pytest

from soractl.jobs.signals import Signals
from soractl.jobs.submit import submit
from soractl.jobs.supervised import JobActor, supervise
from soractl.launch import preflight
from soractl.launch.prepare import LaunchOptions, prepare_in_job, prepare_launch
from soractl.launch.start import write_attempt
from soractl.launch.start_point import StartPoint
from soractl.queue.interface import Allocation
from soractl.queue.record import read_record
from soractl.remote import nodes
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node
from soractl.supervise.lease import Lease, LeaseLostError
from soractl.supervise.supervisor import Supervisor

N1, N2, N3 = (Node(name, local=True) for name in ("n1", "n2", "n3"))


@pytest.fixture
def actor(slurm_here, monkeypatch):
    """One that acts for a run in a job of two nodes and a spare, all of them this machine."""
    monkeypatch.setattr(nodes, "_own_names", lambda: {"n1", "n2", "n3"})
    monkeypatch.setattr(
        Signals, "__init__", lambda self: vars(self).update(seen=set(), terminated_at=None)
    )
    given = Allocation(12, (N1, N2, N3), 0)
    with Connections() as remote:
        prepared = prepare_launch("smoke", LaunchOptions(queue="slurm"), os.environ)
        found = submit(prepared, ["s"], remote, supervised=True)
        first = Allocation(12, (N1, N2), 0)
        there = prepare_in_job(found.run, first, found.attempt, StartPoint("fresh"), os.environ)
        write_attempt(there, found.run, found.attempt)
        lease = Lease(found.run.supervisor)
        assert lease.take()
        yield JobActor(found.run, lease, remote, given, 1, Signals())


def test_the_last_nodes_of_a_job_are_its_spares(actor):
    assert [(node.name, node.spare) for node in actor.nodes()] == [
        *(("n1", False), ("n2", False), ("n3", True)),
    ]


def test_nothing_is_done_once_a_signal_wants_the_end(actor):
    [attempt] = actor.run.attempts()
    actor.fence(attempt)
    actor.signals.seen.add(10)
    with pytest.raises(LeaseLostError, match="the job is to end"):
        actor.fence(attempt)


def test_a_run_is_supervised_to_its_end(actor, slurm_here):
    slurm_here.ranks("if sys.argv[-3].endswith('node_rank=0'): save(1)")
    [attempt] = actor.run.attempts()
    actor.start(attempt)
    assert supervise(actor) == 0
    assert read_record(attempt).then == "queued"  # the batch shell notes what follows


def test_spares_of_a_job_are_checked_on_the_jobs_own_nodes(actor, monkeypatch):
    asked = []

    def unfit(plan, remote):
        asked.extend((one.node.name, one.ranks) for one in plan.nodes)
        return {"n3": "/dev/shm is full"}

    monkeypatch.setattr(preflight, "unfit_to_join", unfit)
    assert actor.unfit_spares() == {"n3": "/dev/shm is full"}
    assert asked == [("n1", 2), ("n3", 2)]


def test_a_full_disk_ends_the_supervisor_with_its_reason(actor, monkeypatch, capsys):
    def writes(self):
        raise OSError(errno.ENOSPC, "No space left on device", "/shared/runs/events.jsonl")

    monkeypatch.setattr(Supervisor, "run", writes)
    assert supervise(actor) == 93
    assert "the disk is full: /shared/runs/events.jsonl" in capsys.readouterr().err


def test_a_typing_error_in_the_clusters_file_ends_the_supervisor_with_its_reason(
    actor, slurm_here, capsys
):
    slurm_here.write("hostfiles/slurm.toml", "ranks_per_nod = 2\n")
    assert supervise(actor) == 2
    assert "ranks_per_nod" in capsys.readouterr().err
