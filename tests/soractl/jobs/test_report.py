import os

from soractl.jobs import report as job_report
from soractl.jobs.follow import JobEnd
from soractl.jobs.submit import Submitted
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.runs.post_mortem import Failure, Outcome
from trainer.run_dir import create_run


def test_the_script_stands_between_summary_and_forecast(slurm_here):
    prepared = prepare_launch("smoke", LaunchOptions(queue="slurm"), os.environ)
    lines = [str(line) for line in job_report.script_lines(prepared, "one\ntwo\n", "it may start")]
    assert lines == [
        "run      runs/001-smoke",
        "stage    smoke",
        "start    random weights",
        "nodes    4 ranks on 2 nodes: Slurm will name them",
        *("", "one", "two", ""),
        "sbatch --test-only: it may start",
    ]
    assert job_report.script_json(prepared, "one\n", "it may start") == {
        "run": "001-smoke",
        "stage": "smoke",
        "missing": [],
        "notes": [],
        "script": "one\n",
        "forecast": "it may start",
    }


def test_a_submission_names_its_job_and_what_to_type(slurm_here):
    run = create_run(slurm_here.folder / "runs", "smoke")
    submitted = Submitted(run, run.new_attempt(), 12)
    first, *_, last = job_report.submitted_lines(submitted)
    assert (
        first
        == "submitted 001-smoke, attempt 1, as job 12; script and log: runs/001-smoke/attempts/1/"
    )
    assert last.split("  ")[1] == "soractl kill 001-smoke"
    assert job_report.submitted_json(submitted) == {
        "run": "001-smoke",
        "path": str(run.path),
        "attempt": 1,
        "job_id": 12,
    }


def test_the_end_of_a_job_that_never_started_is_slurms(slurm_here):
    run = create_run(slurm_here.folder / "runs", "smoke")
    outcome = Outcome(1, 1000.0, Failure("Slurm", "no account of job 12 (NODE_FAIL)"))
    end = JobEnd(run.new_attempt(), 12, outcome, None)
    assert job_report.end_lines(run, end) == [
        "001-smoke: Slurm: no account of job 12 (NODE_FAIL)",
        "log: runs/001-smoke/attempts/1/slurm.log",
        "0 complete checkpoints",
    ]
    found = job_report.end_json(run, end)
    assert (found["job_id"], found["exit_code"], found["progress"]) == (12, 1, None)
