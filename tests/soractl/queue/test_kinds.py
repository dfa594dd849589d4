import os
from typing import get_args

import pytest

from soractl.cluster.settings import Kind
from soractl.jobs.cancel import cancel_job
from soractl.jobs.submit import submit
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.queue.interface import Queue
from soractl.queue.kinds import QUEUES, allocation, queue_of, queue_of_run
from soractl.queue.record import open_job
from soractl.queue.slurm import Slurm
from soractl.remote.connections import Connections
from soractl.runs.status import read_status
from tests.soractl.queue.second_queue import Entry, SecondQueue
from trainer.atomic_files import write_json
from trainer.run_dir import create_run


@pytest.fixture
def second(workplace, monkeypatch):
    """A workplace whose one queue is not Slurm."""
    kind: type[Queue] = SecondQueue
    monkeypatch.setitem(QUEUES, "slurm", kind)
    monkeypatch.setattr(SecondQueue, "jobs", {})
    monkeypatch.setattr(SecondQueue, "asked", [])
    workplace.write(
        "hostfiles/slurm.toml",
        f'environment = "{workplace.bin}"\n[slurm]\nnodes = 2\ngpus_per_node = 2\n',
    )
    return workplace


def test_another_queue_takes_shows_and_ends_a_run_and_no_program_of_slurm_is_asked(second):
    with Connections() as remote:
        prepared = prepare_launch("smoke", LaunchOptions(queue="slurm"), os.environ)
        assert prepared.site.source.origin == "Second will name them"
        found = submit(prepared, ["soractl"], remote)
        assert found.attempt.job_script.read_text() == "2 nodes\n"
        status = read_status(found.run, remote)
        assert (status.state, status.queue) == ("queued", Entry(1, "Q", reason="no nodes"))
        queue = queue_of_run(found.run, remote, os.environ)
        assert cancel_job(found.run, queue, grace_s=0.1).left is None
        assert SecondQueue.asked == ["cancel 1"]
        status = read_status(found.run, remote)
        assert (status.state, status.first_failure.node) == ("stopped", "Second")


def test_a_job_is_found_by_the_environment_of_any_queue(second):
    assert allocation({}) is None
    assert [node.name for node in allocation({"SECOND_NODES": "n1 n2"}).nodes] == ["n1", "n2"]


def test_a_record_of_before_there_was_a_kind_is_slurms(tmp_path):
    run = create_run(tmp_path, "smoke")
    attempt = run.new_attempt()
    write_json(attempt.job, {"job_id": 12, "restarts": 1, "then": "queued", "start": None})
    assert queue_of(attempt) is Slurm
    assert open_job(run)[1].kind == "slurm"


def test_a_record_of_a_queue_that_is_not_known_is_none(tmp_path):
    run = create_run(tmp_path, "smoke")
    write_json(run.new_attempt().job, {"job_id": 12, "kind": "abacus"})
    assert open_job(run) is None


def test_every_kind_of_cluster_but_ssh_is_a_queue():
    assert {"ssh", *QUEUES} == set(get_args(Kind))
