import pytest

from soractl.jobs import follow as following
from soractl.jobs.follow import JobEnd, follow_job, without_account
from soractl.queue.record import JobRecord, open_job, write_record
from soractl.queue.slurm import Slurm
from soractl.queue.slurm_answers import SlurmEntry
from soractl.remote.connections import Connections
from soractl.runs.events import EventKind, EventLog, read_events
from soractl.runs.post_mortem import Failure, Outcome, read_outcome
from soractl.terminal.progress_bar import PlainDisplay
from trainer.atomic_files import write_json
from trainer.run_dir import create_run

WELL = Outcome(0, 1000.0, None)


@pytest.fixture
def run(slurm_here):
    return create_run(slurm_here.folder / "runs", "smoke")


def follow(run):
    with Connections() as remote:
        return follow_job(run, Slurm(remote), PlainDisplay())


def test_a_job_that_notes_its_end_is_followed_to_it(run):
    attempt = run.new_attempt()
    write_record(attempt, JobRecord(job_id=12, then="ended"))
    write_json(attempt.exit, WELL.as_json())
    assert follow(run) == JobEnd(attempt, 12, WELL, None)


def test_a_job_that_was_cancelled_while_it_waited_is_noted_as_stopped(
    run, slurm_here, monkeypatch, capsys
):
    monkeypatch.setattr(following, "PATIENCE_S", 0.1)
    attempt = run.new_attempt()
    write_record(attempt, JobRecord(job_id=12))
    slurm_here.write("bin/queue", "12|CANCELLED|N/A||None\n")
    end = follow(run)
    failure = Failure("Slurm", "Slurm cancelled job 12 (CANCELLED)", stopped=True)
    assert (end.outcome.exit_code, end.outcome.first_failure) == (143, failure)
    assert read_outcome(attempt) == end.outcome
    assert [(one.kind, one.text) for one in read_events(run)] == [("ended", "exit code 143")]
    assert open_job(run) is None


@pytest.mark.parametrize(
    ("entry", "code", "failure"),
    [
        (None, 1, Failure("Slurm", "no account of job 7 (it has left the queue)")),
        (
            SlurmEntry(7, "NODE_FAIL", nodes="n[1-2]"),
            1,
            Failure("n[1-2]", "no account of job 7 (NODE_FAIL)"),
        ),
        (
            SlurmEntry(7, "CANCELLED by 1000"),
            143,
            Failure("Slurm", "Slurm cancelled job 7 (CANCELLED by 1000)", stopped=True),
        ),
    ],
)
def test_a_job_without_account_is_what_the_queue_shows(run, entry, code, failure):
    attempt = run.new_attempt()
    attempt.job_log.touch()
    outcome = without_account(attempt, 7, entry)
    assert (outcome.exit_code, outcome.first_failure) == (code, failure)


def test_a_job_that_wrote_no_log_could_not_see_the_runs_folder(run):
    attempt = run.new_attempt()
    failure = without_account(attempt, 7, SlurmEntry(7, "FAILED")).first_failure
    assert failure.error == (
        f"no account of job 7 (FAILED); it wrote no log: its nodes may not share {attempt.path}"
    )


def test_an_end_says_why_the_job_gave_up(run):
    attempt = run.new_attempt()
    end = JobEnd(attempt, 7, WELL, None)
    assert end.gave_up(run) == ""
    EventLog(run, "slurm").write(EventKind.GAVE_UP, attempt=attempt.number, text="no checkpoint")
    assert end.gave_up(run) == "no checkpoint"
