"""The commands that look into a run: `stacks`, `diagnose` and `why`."""

from pathlib import Path
from typing import Annotated

import typer

from soractl.runs.options import RunName
from soractl.terminal.options import Json, Runs

app = typer.Typer()


@app.command()
def stacks(
    run: RunName = "latest",
    twice: Annotated[
        float | None,
        typer.Option(metavar="S", min=0, help="Again after S seconds, to see what stands still."),
    ] = None,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Show where every rank and worker is, the odd ones first."""
    from soractl.diagnosis import report
    from soractl.diagnosis.examination import started
    from soractl.diagnosis.stacks import take_rounds
    from soractl.remote.connections import Connections
    from soractl.runs.find import find_run
    from soractl.terminal import output

    attempt, record = started(find_run(Path(runs).absolute(), run))
    with Connections(record.ssh) as remote:
        before, now = take_rounds(attempt, record, remote, twice)
    lines = report.stacks_lines(now, before, twice or 0)
    output.report(lines, report.stacks_json(now, before), as_json)


@app.command()
def diagnose(run: RunName = "latest", as_json: Json = False, runs: Runs = "runs") -> None:
    """Find the rank that others wait for, and keep the evidence."""
    from soractl.diagnosis import report
    from soractl.diagnosis.evidence import collect
    from soractl.diagnosis.examination import started
    from soractl.remote.connections import Connections
    from soractl.runs.find import find_run
    from soractl.terminal import output

    found_run = find_run(Path(runs).absolute(), run)
    attempt, record = started(found_run)
    with Connections(record.ssh) as remote:
        found = collect(found_run, attempt, record, remote)
    output.report(report.evidence_lines(found), found.as_json(), as_json)


@app.command()
def why(run: RunName = "latest", as_json: Json = False, runs: Runs = "runs") -> None:
    """Explain a run's newest failure, and what to type next."""
    from soractl.diagnosis import report
    from soractl.diagnosis.case_file import explain_run
    from soractl.remote.connections import Connections
    from soractl.runs.find import find_run, ssh_options
    from soractl.terminal import output

    found = find_run(Path(runs).absolute(), run)
    with Connections(ssh_options(found)) as remote:
        explained = explain_run(found, remote)
    output.report(report.why_lines(explained), report.why_json(explained), as_json)
