"""Commands that judge the nodes: `clock`."""

import os
from typing import Annotated

import typer

from soractl.remote.options import Hosts
from soractl.terminal.options import (
    ImplicitValue,
    Json,
    Timeout,
    command_with,
    is_number,
    positive,
)

app = typer.Typer()


@app.command(cls=command_with({"--watch": ImplicitValue("5", is_number)}))
def clock(
    hosts: Hosts = None,
    watch: Annotated[
        float | None,
        typer.Option(metavar="[S]", callback=positive, help="Again every S seconds; without S: 5."),
    ] = None,
    timeout: Timeout = 10,
    as_json: Json = False,
) -> None:
    """Compare the nodes' clocks with this machine's; with --watch, see steps and drift."""
    from soractl.health import clock_report
    from soractl.health.clock_watch import watch_clocks
    from soractl.terminal import output

    for found in watch_clocks(hosts, watch, deadline_s=timeout, environ=os.environ):
        shown = clock_report.table(found), clock_report.as_json(found)
        output.look(*shown, as_json, again=watch is not None)
        output.note(clock_report.notes(found))
    output.note(clock_report.remedies(found))
    raise typer.Exit(found.exit_code)
