"""Commands on runs: `status`, `runs`, `logs`, `events` and `kill`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soractl.remote.options import Hostfile
from soractl.runs.options import RunName, complete_node_of_run, complete_run
from soractl.terminal.options import (
    DryRun,
    ImplicitValue,
    Json,
    Runs,
    command_with,
    is_number,
    is_word,
    positive,
)

if TYPE_CHECKING:
    from soractl.jobs.cancel import Cancelled

app = typer.Typer()


@app.command(cls=command_with({"--watch": ImplicitValue("5", is_number)}))
def status(
    run: RunName = "latest",
    watch: Annotated[
        float | None,
        typer.Option(metavar="[S]", callback=positive, help="Again every S seconds; without S: 5."),
    ] = None,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Show how far a run is, and why it failed if it did.

    The exit code is 1 for a failed run. With --watch until the run has ended.
    """
    from contextlib import suppress

    from soractl.account.goodput import account
    from soractl.account.report import goodput_json, goodput_rows
    from soractl.errors import ExitCode, raise_if_interrupted
    from soractl.remote.connections import Connections
    from soractl.runs import report
    from soractl.runs import status as run_status
    from soractl.runs.find import find_run, ssh_options
    from soractl.supervise.report import supervisor_json, supervisor_rows
    from soractl.terminal import output

    found = find_run(Path(runs).absolute(), run)
    spent = None
    with Connections(ssh_options(found)) as remote:
        for result in run_status.looks(found, remote, watch):
            faults = (node.fault for node in result.nodes)
            raise_if_interrupted(faults, "not all nodes have answered")
            with suppress(OSError):  # a busy folder: the account of the look before stays
                spent = account(found)
            more = [*goodput_rows(spent), *supervisor_rows(found)]
            values = {**goodput_json(spent), "supervisor": supervisor_json(found)}
            lines = report.status_lines(result, more)
            output.look(lines, {**values, **result.as_json()}, as_json, again=watch is not None)
    raise typer.Exit(ExitCode.FAILED if result.state == "failed" else ExitCode.OK)


@app.command("runs")
def list_all(as_json: Json = False, runs: Runs = "runs") -> None:
    """List all runs, newest first, with state, step and size."""
    from soractl.errors import raise_if_interrupted
    from soractl.remote.connections import Connections
    from soractl.runs import report
    from soractl.runs.status import list_runs
    from soractl.terminal import output

    rows = list_runs(Path(runs).absolute(), Connections)
    raise_if_interrupted((row.fault for row in rows), "not all runs were looked at")
    output.report(report.runs_parts(rows), report.runs_json(rows), as_json)


@app.command()
def logs(
    run: RunName = "latest",
    node: Annotated[
        str | None,
        typer.Option(help="Another node than the head node.", autocompletion=complete_node_of_run),
    ] = None,
    every_node: Annotated[
        bool, typer.Option("--all", help="All nodes, each line with its node.")
    ] = False,
    rank: Annotated[int | None, typer.Option(min=0, help="Only this rank's own lines.")] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="An earlier attempt.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Number of last lines.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new lines as well.")] = False,
    runs: Runs = "runs",
) -> None:
    """Show what the ranks of a node printed."""
    from soractl.runs import node_log, report
    from soractl.runs.find import find_run
    from soractl.terminal import output

    options = node_log.LogOptions(node=node, every_node=every_node, rank=rank, attempt=attempt)
    shown = node_log.logs_of(find_run(Path(runs).absolute(), run), options)
    last = ((log, line) for log in shown for line in log.last(lines))
    output.verbatim(report.log_line(*one, named=every_node) for one in last)
    if follow:
        added = node_log.follow(shown)
        output.verbatim(report.log_line(*one, named=every_node) for one in added)


@app.command()
def events(
    run: RunName = "latest",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new ones as well.")] = False,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Show what happened to a run, and what was done about it."""
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
    """Stop a run on all its nodes, then check that it is gone.

    A run in Slurm's queue is taken out of it first.
    """
    from soractl.remote.connections import Connections
    from soractl.runs import kill as killing
    from soractl.runs import report
    from soractl.terminal import output

    grace_s = None if dry_run else grace
    by_run = not every_run and pattern is None
    cancelled = _cancel(Path(runs).absolute(), run, grace_s) if by_run else None
    run = cancelled.run.name if cancelled else run
    options = killing.KillOptions(
        run=run, every_run=every_run, pattern=pattern, sudo=sudo, hostfile=hostfile
    )
    targets = killing.targets(Path(runs).absolute(), options, os.environ)
    killed = killing.kill(
        targets,
        Connections,
        grace_s=grace_s,
        on_found=lambda found: output.note(report.kill_progress(found, grace)),
    )
    cancelled = _confirmed(cancelled) if cancelled else None
    lines = cancelled.lines() if cancelled else []
    if killed or not cancelled:
        lines += report.kill_lines(killed)
    values = {**report.kill_json(killed), "job": cancelled.as_json() if cancelled else None}
    output.report(lines, values, as_json)
    in_queue = cancelled.exit_code if cancelled else 0
    raise typer.Exit(in_queue or (killed.exit_code if killed else 0))


def _confirmed(cancelled: "Cancelled") -> "Cancelled":
    from soractl.jobs.cancel import confirm
    from soractl.queue.kinds import queue_of_run
    from soractl.remote.connections import Connections

    with Connections() as remote:
        return confirm(cancelled, queue_of_run(cancelled.run, remote, os.environ))


def _cancel(root: Path, name: str | None, grace_s: float | None) -> "Cancelled | None":
    from soractl.jobs.cancel import cancel_job
    from soractl.queue.kinds import queue_of_run
    from soractl.queue.record import open_job
    from soractl.remote.connections import Connections
    from soractl.runs.find import find_run
    from soractl.terminal import output
    from trainer.run_dir import runs

    known = [find_run(root, name)] if name else runs(root)[-1:]
    if not known or open_job(known[0]) is None:
        return None
    with Connections() as remote:
        return cancel_job(
            known[0],
            queue_of_run(known[0], remote, os.environ),
            grace_s=grace_s,
            on_found=lambda entry: output.note(f"{known[0].name} is {entry.in_words}: ending it"),
        )
