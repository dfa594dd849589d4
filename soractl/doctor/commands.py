"""The `doctor` command: read arguments, call one function, hand the result to output."""

import os
from pathlib import Path
from typing import Annotated

import typer

from soractl.remote.options import Hosts
from soractl.stages.options import complete_stage
from soractl.terminal.options import Json, Runs, Timeout

app = typer.Typer()


@app.command()
def doctor(
    hosts: Hosts = None,
    stage: Annotated[
        str | None,
        typer.Option(
            help="A stage whose weights, clips and room are looked at too.",
            autocompletion=complete_stage,
        ),
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option(help="A good state: written if the file is new, else compared with."),
    ] = None,
    timeout: Timeout = 20,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Can these nodes train? Each fault with its remedy."""
    from soractl.doctor import report
    from soractl.doctor.examine import examine
    from soractl.queue.hosts import named
    from soractl.terminal import output

    chosen = named(hosts)
    found = examine(chosen.names, stage, golden, runs=runs, deadline_s=timeout, environ=os.environ)
    output.report(report.lines(found), report.as_json(found), as_json)
    output.note([*report.notes(found), *chosen.notes])
    raise typer.Exit(found.exit_code)
