"""Lines and JSON of launches through a queue: the script, the place in the queue, the end."""

from dataclasses import asdict
from typing import Any

from soractl.jobs.follow import JobEnd
from soractl.jobs.submit import Submitted
from soractl.launch import report
from soractl.launch.prepare import Prepared
from soractl.runs.report import checkpoints, failure_line
from soractl.terminal import text
from soractl.terminal.hints import to_type
from soractl.terminal.lines import Verbatim
from trainer.run_dir import RunDir


def script_lines(prepared: Prepared, script: str, forecast: str) -> list[str]:
    """The script, and what the queue thinks of it."""
    missing = [f"missing: {what}" for what in prepared.missing]
    lines = [*report.summary(prepared), "", *map(Verbatim, script.splitlines()), "", *missing]
    return [*lines, f"sbatch --test-only: {forecast}"]


def script_json(prepared: Prepared, script: str, forecast: str) -> dict[str, Any]:
    """The same for programs."""
    return {
        "run": prepared.plan.run.name,
        "stage": prepared.stage,
        "missing": prepared.missing,
        "notes": prepared.notes,
        "script": script,
        "forecast": forecast,
    }


def submitted_lines(submitted: Submitted) -> list[str]:
    """That it waits, and what to type while it does."""
    name = submitted.run.name
    number = submitted.attempt.number
    return [
        f"submitted {name}, attempt {number}, as job {submitted.job_id}; "
        f"script and log: {text.path(submitted.attempt.path)}/",
        *text.pairs(
            [
                (f"  {to_type('follow', name)}", "follow it to its end"),
                (f"  {to_type('status', name)}", "its place in the queue, how far it is"),
                (f"  {to_type('kill', name)}", "take it out of the queue and off its nodes"),
            ]
        ),
    ]


def submitted_json(submitted: Submitted) -> dict[str, Any]:
    """The same for programs."""
    return {
        "run": submitted.run.name,
        "path": str(submitted.run.path),
        "attempt": submitted.attempt.number,
        "job_id": submitted.job_id,
    }


def end_lines(run: RunDir, end: JobEnd) -> list[str]:
    """End of the job's last attempt; that of a job that never started is all the queue's."""
    if end.attempt.plan.exists() and end.progress is not None:
        return report.outcome(run, end.attempt, end.outcome, end.progress)
    failure = end.outcome.first_failure
    why = failure_line(failure) if failure else "it ended well"
    return [f"{run.name}: {why}", f"log: {text.path(end.attempt.job_log)}", checkpoints(run)]


def end_json(run: RunDir, end: JobEnd) -> dict[str, Any]:
    """The same for programs."""
    return {
        "run": run.name,
        "path": str(run.path),
        "attempt": end.attempt.number,
        "job_id": end.job_id,
        **end.outcome.as_json(),
        "progress": asdict(end.progress) if end.progress else None,
    }
