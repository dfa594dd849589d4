import pytest

from soractl.queue.record import (
    JobRecord,
    newest_job,
    note_end,
    open_job,
    read_record,
    write_record,
)
from trainer.run_dir import RunDir


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "001-smoke")


@pytest.fixture
def attempt(run):
    run.path.mkdir()
    return run.new_attempt()


START = {"kind": "fresh", "path": None, "reset_data": False}


def test_a_record_is_read_as_it_was_written(attempt):
    record = JobRecord(job_id=12, restarts=2, start=START)
    write_record(attempt, record)
    assert read_record(attempt) == record


def test_a_damaged_record_is_none(attempt):
    attempt.job.write_text("{")
    assert read_record(attempt) is None


def test_a_job_is_open_until_it_notes_its_end(run, attempt):
    write_record(attempt, JobRecord(job_id=12))
    assert open_job(run) == (attempt, JobRecord(job_id=12))
    note_end(attempt, "requeued")
    assert open_job(run) == (attempt, JobRecord(job_id=12, then="requeued"))
    note_end(attempt, "ended")
    assert open_job(run) is None
    assert newest_job(run) == (attempt, JobRecord(job_id=12, then="ended"))


def test_an_attempt_over_ssh_hides_the_jobs_before_it(run, attempt):
    write_record(attempt, JobRecord(job_id=12))
    run.new_attempt()  # was never planned
    assert newest_job(run) == (attempt, JobRecord(job_id=12))
    run.new_attempt().plan.write_text("{}")
    assert newest_job(run) is None


def test_what_slurm_did_not_start_gets_no_record_at_its_end(attempt):
    note_end(attempt, "ended")
    assert not attempt.job.exists()
