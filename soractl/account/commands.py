"""The command that accounts for a run: `report`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from soractl.runs.options import RunName
from soractl.terminal.options import Json, Runs

app = typer.Typer()


@app.command()
def report(
    run: RunName = "latest",
    page: Annotated[
        Path | None, typer.Option("--html", help="Write it as a page with pictures, too.")
    ] = None,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Account for a run's time, and what it cost.

    The parts add up to the wall time from the launch to the end, or to the last sign of life.
    """
    from soractl.account import report as reports
    from soractl.account.goodput import account
    from soractl.account.page import page as html_page
    from soractl.errors import ExitCode, SoractlError
    from soractl.files.output import aside, check_file
    from soractl.monitor.energy import energy_of
    from soractl.runs.find import find_run
    from soractl.supervise.process import cluster_of
    from soractl.terminal import output
    from soractl.terminal.hints import to_type

    found_run = find_run(Path(runs).absolute(), run)
    settings = cluster_of(found_run)
    found = account(found_run, settings.price_per_gpu_hour)
    if found is None:
        raise SoractlError(
            f"{found_run.name} never started",
            hint=f"`{to_type('resume', found_run.name)}` starts it",
            exit_code=ExitCode.NOTHING_SUITABLE,
        )
    span = found.begin_unix_s, found.end_unix_s
    if energy := energy_of(found_run, *span, settings.price_per_kwh):
        found = replace(found, **energy.as_json())
    if page:
        check_file(page)
        with aside(page) as draft:
            draft.write_text(html_page(found, reports.figures(found)))
    output.report(reports.report_lines(found), reports.report_json(found), as_json)
