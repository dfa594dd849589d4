"""The `monitor` command: read arguments, call one function, hand the result to output."""

import os
from pathlib import Path
from typing import Annotated

import typer

from soractl.remote.options import Hosts
from soractl.runs.options import complete_run
from soractl.terminal.options import Json, Runs, positive

app = typer.Typer()


@app.command()
def monitor(
    hosts: Hosts = None,
    run: Annotated[
        str | None,
        typer.Option(
            help="The run to show beside its nodes; without it the newest.",
            autocompletion=complete_run,
        ),
    ] = None,
    every: Annotated[float, typer.Option(callback=positive, help="Seconds between looks.")] = 5,
    for_s: Annotated[
        float | None,
        typer.Option("--for", metavar="S", callback=positive, help="End after S seconds."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: a free one.")] = 8470,
    bind: Annotated[
        str, typer.Option(help="Address of the page; any but loopback asks for a token.")
    ] = "127.0.0.1",
    tui: Annotated[bool, typer.Option("--tui", help="Show the nodes in this terminal.")] = False,
    export_html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write what is stored as one page and end; with --for, then."
        ),
    ] = None,
    prometheus: Annotated[
        str | None, typer.Option(metavar="[HOST]:PORT", help="Serve /metrics there, too.")
    ] = None,
    keep: Annotated[
        int, typer.Option(metavar="DAYS", min=1, help="Single looks; minutes: 90 days.")
    ] = 7,
    store: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="On a disk of this machine; else in ~/.local/state."),
    ] = None,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Watch all nodes' power, load, networks and clocks, on a page.

    With --json it is one look.
    """
    from soractl.files.home import in_home
    from soractl.monitor import once, report, service
    from soractl.monitor.store import DEFAULT_FOLDER
    from soractl.queue.hosts import named
    from soractl.terminal import output

    service.check_options(
        is_one_look=as_json, for_s=for_s, tui=tui, prometheus=prometheus, file=export_html
    )
    chosen = named(hosts)
    output.note(chosen.notes)
    source, found = service.chosen(chosen.names, run, Path(runs), os.environ)
    options = service.MonitorOptions(
        source=source,
        run=found,
        folder=in_home(store or DEFAULT_FOLDER),
        every_s=every,
        keep_days=keep,
        bind=bind,
        port=port,
    )
    if as_json:
        snapshot = once.look_once(source)
        output.json_object(report.as_json(snapshot))
        raise typer.Exit(once.exit_code(snapshot))
    if export_html is None or for_s is not None:
        with service.Monitor(options, output.note) as watching:
            metrics = None if prometheus is None else watching.serve_metrics(prometheus)
            output.result(address := watching.serve())
            if metrics is not None:
                output.result(metrics)
            output.note(report.address_hints(address))
            for snapshot in watching.snapshots(for_s):
                if tui:
                    output.look(report.screen(snapshot), {}, False, again=True)
            output.note(report.summary(snapshot))
    if export_html is not None:
        output.result(service.export(options, export_html))
