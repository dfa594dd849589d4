"""Commands on runs: `status`, `logs`, `events` and `kill`."""

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
    from soractl.errors import ExitCode, raise_if_interrupted
    from soractl.remote.connections import Connections
    from soractl.runs import report
    from soractl.runs import status as run_status
    from soractl.runs.find import find_run, ssh_options
    from soractl.terminal import output

    found = find_run(Path(runs).absolute(), run)
    with Connections(ssh_options(found)) as remote:
        result = run_status.read_status(found, remote)
    raise_if_interrupted((node.fault for node in result.nodes), "not all nodes have answered")
    output.report(report.status_lines(result), result.as_json(), as_json)
    raise typer.Exit(ExitCode.FAILED if result.state == "failed" else ExitCode.OK)


@app.command()
def logs(
    run: RunName = "latest",
    node: Annotated[
        str | None,
        typer.Option(help="Another node than the head node.", autocompletion=complete_node_of_run),
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Number of last lines.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new lines as well.")] = False,
    runs: Runs = "runs",
) -> None:
    """Show what the ranks of a node printed."""
    from soractl.runs import node_log
    from soractl.runs.find import find_run
    from soractl.runs.node_log import log_of
    from soractl.terminal import output

    log, ended = log_of(find_run(Path(runs).absolute(), run), node)
    output.verbatim(node_log.tail(log)[-lines:] if lines else [])
    if follow:
        output.verbatim(node_log.follow(log, ended))


@app.command()
def events(
    run: RunName = "latest",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new ones as well.")] = False,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Show what happened to a run: starts, saves, failures, and what was done about them."""
    from soractl.runs import report
    from soractl.runs.events import all_events, new_events, read_events
    from soractl.runs.find import find_run
    from soractl.terminal import output

    found = find_run(Path(runs).absolute(), run)
    known = len(read_events(found))
    past = all_events(found)
    output.report(map(report.event_line, past), report.events_json(found, past), as_json)
    if follow:
        one = report.event_json_line if as_json else report.event_line
        output.result(map(one, new_events(found, known)))


@app.command(cls=command_with({"--pattern": ImplicitValue(r"python.*train\.py", is_word)}))
def kill(
    run: Annotated[
        str | None,
        typer.Argument(help="Default: the newest running run.", autocompletion=complete_run),
    ] = None,
    every_run: Annotated[bool, typer.Option("--all", help="Every run of mine.")] = False,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="[RE]",
            help=r"Processes with RE in their command line; without RE: python.*train\.py.",
        ),
    ] = None,
    sudo: Annotated[bool, typer.Option("--sudo", help="Other users' processes too.")] = False,
    hostfile: Hostfile = None,
    grace: Annotated[float, typer.Option(help="Seconds from TERM to KILL, for a save.")] = 40,
    dry_run: DryRun = False,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Stop a run on all its nodes, then check that it is gone."""
    from soractl.remote.connections import Connections
    from soractl.runs import kill as killing
    from soractl.runs import report
    from soractl.terminal import output

    options = killing.KillOptions(
        run=run, every_run=every_run, pattern=pattern, sudo=sudo, hostfile=hostfile
    )
    targets = killing.targets(Path(runs).absolute(), options, os.environ)
    killed = killing.kill(
        targets,
        Connections,
        grace_s=None if dry_run else grace,
        on_found=lambda found: output.note(report.kill_progress(found, grace)),
    )
    output.report(report.kill_lines(killed), report.kill_json(killed), as_json)
    raise typer.Exit(killed.exit_code if killed else 0)
