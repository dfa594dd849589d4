"""Commands on runs: `status`, `logs` and `kill`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from soractl.remote.options import Hostfile
from soractl.runs.options import RunName, complete_node_of_run, complete_run
from soractl.terminal.options import (
    DryRun,
    ImplicitValue,
    Json,
    Runs,
    command_with,
    is_word,
)

app = typer.Typer()


@app.command()
def status(run: RunName = "latest", as_json: Json = False, runs: Runs = "runs") -> None:
    """Show how far a run is, and why it failed if it did."""
    from soractl.errors import raise_if_interrupted
    from soractl.remote.connections import Connections
    from soractl.runs import report as status_report
    from soractl.runs import status as run_status
    from soractl.runs.find import find_run, ssh_options
    from soractl.terminal import output

    found = find_run(Path(runs).absolute(), run)
    with Connections(ssh_options(found)) as remote:
        told = run_status.read_status(found, remote)
    raise_if_interrupted((node.fault for node in told.nodes), "not all nodes have answered")
    output.report(status_report.lines(told), told.as_json(), as_json)


@app.command()
def logs(
    run: RunName = "latest",
    node: Annotated[
        str | None,
        typer.Option(help="Another node than the head node.", autocompletion=complete_node_of_run),
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the last lines.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new lines as well.")] = False,
    runs: Runs = "runs",
) -> None:
    """Show what the ranks of a node printed."""
    from soractl.runs import node_log
    from soractl.runs.find import find_run, log_of
    from soractl.terminal import output

    log, ended = log_of(find_run(Path(runs).absolute(), run), node)
    output.result(node_log.tail(log)[-lines:])
    if follow:
        output.result(node_log.follow(log, ended))


@app.command(cls=command_with({"--pattern": ImplicitValue(r"python.*train\.py", is_word)}))
def kill(
    run: Annotated[
        str | None,
        typer.Argument(help="Else the newest run that lives.", autocompletion=complete_run),
    ] = None,
    every_run: Annotated[bool, typer.Option("--all", help="Every run of mine.")] = False,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="[RE]",
            help=r"Whatever has RE in its command line; without RE: python.*train\.py.",
        ),
    ] = None,
    sudo: Annotated[bool, typer.Option("--sudo", help="Other users' processes too.")] = False,
    hostfile: Hostfile = None,
    grace: Annotated[float, typer.Option(help="Seconds from TERM to KILL, for a save.")] = 40,
    dry_run: DryRun = False,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Stop a run on all its nodes and look whether it is gone."""
    from soractl.remote.connections import Connections
    from soractl.runs import kill as killing
    from soractl.runs import kill_report
    from soractl.terminal import output

    wishes = killing.Wishes(
        run=run, every_run=every_run, pattern=pattern, sudo=sudo, hostfile=hostfile
    )
    meant = killing.targets(Path(runs).absolute(), wishes, os.environ)
    killed = killing.kill(
        meant,
        Connections,
        grace_s=None if dry_run else grace,
        on_found=lambda found: output.note(kill_report.told(found, grace)),
    )
    output.report(kill_report.lines(killed), kill_report.as_json(killed), as_json)
    raise typer.Exit(killed.exit_code if killed else 0)
