import pytest

from soractl.errors import SoractlError
from soractl.queue.interface import Allocation
from soractl.queue.slurm_allocation import allocation

JOB = {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n[1-3]"}


def test_no_job_is_no_allocation():
    assert allocation({}) is None


def test_an_allocation_has_its_nodes_in_slurms_order():
    given = allocation(JOB)
    assert (given.job_id, [node.name for node in given.nodes], given.restarts) == (
        12,
        ["n1", "n2", "n3"],
        0,
    )


def test_a_requeued_job_knows_how_often():
    assert allocation({**JOB, "SLURM_RESTART_COUNT": "2"}).restarts == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"SLURM_ARRAY_JOB_ID": "11"},
            "job 12 is part of a job array, whose tasks would train the same run",
        ),
        (
            {"SLURM_HET_SIZE": "2"},
            "job 12 is a heterogeneous allocation; a run needs nodes of one kind",
        ),
    ],
)
def test_an_array_and_a_heterogeneous_job_are_refused(more, message):
    with pytest.raises(SoractlError) as caught:
        allocation({**JOB, **more})
    assert (caught.value.message, caught.value.exit_code) == (message, 2)


def test_ports_of_jobs_lie_below_those_that_the_kernel_deals_out():
    assert [Allocation(job_id, (), 0).port for job_id in (1, 14_999, 15_000)] == [
        15_001,
        29_999,
        15_000,
    ]
