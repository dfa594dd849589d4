"""Commands that keep a run going: `supervise`, `stop` and `nodes`."""

from pathlib import Path
from typing import Annotated

import typer

from soractl.runs.options import RunName
from soractl.terminal.options import Json, Runs, positive

app = typer.Typer()


@app.command()
def supervise(
    run: RunName = "latest",
    watch_only: Annotated[
        bool, typer.Option("--watch-only", help="Look and notify; never stop or start anything.")
    ] = False,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Keep a run going through hangs, crashes and lost nodes.

    It works in the background until the run ends. A second supervisor of a run stands by.
    """
    from soractl.runs.find import find_run
    from soractl.supervise import report
    from soractl.supervise.process import start_supervisor
    from soractl.terminal import output

    started = start_supervisor(find_run(Path(runs).absolute(), run), watch_only=watch_only)
    output.report(report.started_lines(started), report.started_json(started), as_json)


@app.command()
def stop(
    run: RunName = "latest",
    timeout: Annotated[
        float, typer.Option(callback=positive, help="Seconds to wait for the save.")
    ] = 600,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Have a run save and leave; `resume` goes on from there."""
    import os

    from soractl.jobs.cancel import stop_job
    from soractl.queue.kinds import queue_of_run
    from soractl.remote.connections import Connections
    from soractl.runs.find import find_run, ssh_options
    from soractl.supervise import report
    from soractl.supervise.stop import stop_run
    from soractl.terminal import output

    found = find_run(Path(runs).absolute(), run)
    with Connections(ssh_options(found)) as remote:
        stopped = stop_job(found, queue_of_run(found, remote, os.environ), timeout_s=timeout)
        stopped = stopped or stop_run(found, remote, timeout_s=timeout)
    output.report(report.stopped_lines(stopped), report.stopped_json(stopped), as_json)
    raise typer.Exit(stopped.exit_code)


@app.command()
def nodes(
    lift: Annotated[
        str | None, typer.Option(metavar="NODE", help="End this node's quarantine.")
    ] = None,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Show the nodes that supervisors set apart, and why.

    No run is started on them for a day.
    """
    from soractl.errors import ExitCode, SoractlError
    from soractl.supervise import quarantine, report
    from soractl.terminal import output

    root = Path(runs).absolute()
    if lift and not quarantine.lift(root, lift):
        raise SoractlError(f"{lift} is not set apart", exit_code=ExitCode.NOTHING_SUITABLE)
    book = quarantine.read_book(root)
    output.report(report.nodes_lines(book), book.as_json(), as_json)
