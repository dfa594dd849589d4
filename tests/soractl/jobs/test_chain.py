"""Chains of jobs with scripts in Slurm's place; tests/soractl/queue has the real one."""

import os

import pytest

from soractl.errors import SoractlError
from soractl.jobs.attempts import next_attempt
from soractl.jobs.chain import Way
from soractl.jobs.submit import submit
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.launch.start_point import StartPoint
from soractl.queue.interface import Allocation
from soractl.queue.record import newest_job, read_record
from soractl.queue.slurm import Slurm
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node
from trainer.atomic_files import write_json

NODES = (Node("n1"), Node("n2"))


@pytest.fixture
def remote():
    with Connections() as remote:
        yield remote


def submitted(remote):
    return submit(prepare_launch("smoke", LaunchOptions(queue="slurm"), os.environ), ["s"], remote)


def test_where_a_job_may_not_be_requeued_three_more_wait_behind_it(slurm_here, remote):
    slurm_here.write("bin/job", "JobId=12 Requeue=0 Restarts=0\n")
    found = submitted(remote)
    assert read_record(found.attempt).chain == (13, 14, 15)
    *_, last = (slurm_here.bin / "submitted").read_text().splitlines()
    assert last == "--parsable --dependency=singleton"


def test_the_clusters_file_may_ask_for_a_chain(slurm_here, remote):
    with (slurm_here.folder / "hostfiles/slurm.toml").open("a") as file:
        file.write("chain = 2\n")
    assert read_record(submitted(remote).attempt).chain == (13,)


def test_the_next_job_of_a_chain_goes_on_and_one_is_added(slurm_here, remote):
    slurm_here.write("bin/job", "JobId=12 Requeue=0 Restarts=0\n")
    found = submitted(remote)
    write_json(found.attempt.plan, {"start": StartPoint("fresh").as_json()})
    Way(found.run, Allocation(12, NODES, 0), Slurm(remote)).back(found.attempt)
    following, job = newest_job(found.run)
    assert (following.number, job.job_id, job.chain) == (2, 13, (14, 15, 16))
    assert read_record(found.attempt).then == "requeued"
    assert not (slurm_here.bin / "scontrolled").exists()
    attempt, _ = next_attempt(found.run, Allocation(13, NODES, 0), Slurm(remote))
    assert (attempt.number, read_record(attempt).job_id) == (2, 13)


def test_a_run_that_does_not_come_back_takes_its_chain_with_it(slurm_here, remote):
    slurm_here.write("bin/job", "JobId=12 Requeue=0 Restarts=0\n")
    found = submitted(remote)
    Way(found.run, Allocation(12, NODES, 0), Slurm(remote)).close(found.attempt)
    assert read_record(found.attempt).then == "ended"
    cancelled = (slurm_here.bin / "scancelled").read_text()
    assert cancelled.startswith("--state=PENDING --name=soractl-001-smoke-")


def test_a_job_without_a_chain_is_requeued_and_a_refusal_is_slurms(slurm_here, remote):
    found = submitted(remote)
    way = Way(found.run, Allocation(12, NODES, 0), Slurm(remote))
    way.back(found.attempt)
    assert (slurm_here.bin / "scontrolled").read_text() == "requeue 12\n"
    slurm_here.write("bin/scontrol", "#!/bin/sh\necho disabled >&2\nexit 1\n")
    with pytest.raises(SoractlError, match="Slurm refuses: disabled"):
        way.back(found.attempt)


@pytest.mark.parametrize("length", [0, 1])
def test_a_chain_of_one_job_or_none_has_nothing_behind_it(slurm_here, remote, length):
    with (slurm_here.folder / "hostfiles/slurm.toml").open("a") as file:
        file.write(f"chain = {length}\n")
    assert read_record(submitted(remote).attempt).chain == ()


def test_a_run_ends_though_slurm_does_not_take_its_chain_out(slurm_here, remote, capsys):
    slurm_here.write("bin/job", "JobId=12 Requeue=0 Restarts=0\n")
    found = submitted(remote)
    slurm_here.write("bin/scancel", "#!/bin/sh\necho busy >&2\nexit 1\n")
    Way(found.run, Allocation(12, NODES, 0), Slurm(remote)).close(found.attempt)
    assert read_record(found.attempt).then == "ended"
    assert "Slurm refuses: busy" in capsys.readouterr().err
