"""The `sync` command."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from soractl.checkpoints.options import complete_checkpoint
from soractl.remote.options import Hostfile
from soractl.terminal.options import DryRun, Json, positive

if TYPE_CHECKING:
    from soractl.sync.plan import SyncOptions

app = typer.Typer()


@app.command()
def sync(
    run: Annotated[
        str,
        typer.Argument(
            help="latest, 7, 007-stage2, its folder, or a checkpoint's folder.",
            autocompletion=complete_checkpoint,
        ),
    ] = "latest",
    source: Annotated[
        str | None, typer.Option("--from", metavar="[HOST:]DIR", help="A folder of runs.")
    ] = None,
    destination: Annotated[
        str | None, typer.Option("--to", metavar="[HOST:]DIR", help="Another; else runs/ here.")
    ] = None,
    watch: Annotated[
        float | None, typer.Option(callback=positive, help="Again every so many seconds.")
    ] = None,
    with_optimizer: Annotated[
        bool, typer.Option("--with-optimizer", help="All of it, so that it can be resumed.")
    ] = False,
    ema_only: Annotated[bool, typer.Option("--ema-only", help="The averages alone.")] = False,
    bwlimit: Annotated[int | None, typer.Option(min=1, help="At most so many KiB/s.")] = None,
    hostfile: Hostfile = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Copy complete checkpoints to a machine, or from one.

    Without --from they come from the head node's runs/, or with --to from runs/ here.
    """
    from soractl.sync.plan import SyncOptions

    options = SyncOptions(
        run=run,
        source=source,
        destination=destination,
        hostfile=hostfile,
        with_optimizer=with_optimizer,
        ema_only=ema_only,
        bwlimit=bwlimit,
    )
    if dry_run:
        return _show_sync_plan(options, as_json)
    return _sync(options, watch, as_json)


def _show_sync_plan(options: "SyncOptions", as_json: bool) -> None:
    from soractl.sync import copy as sync
    from soractl.sync import report as sync_report
    from soractl.terminal import output

    plan = sync.dry_run(options, os.environ)
    output.report(sync_report.plan_lines(plan), sync_report.plan_json(plan), as_json)


def _sync(options: "SyncOptions", every_s: float | None, as_json: bool) -> None:
    from soractl.errors import Interrupted
    from soractl.sync import copy as sync
    from soractl.sync import report as sync_report
    from soractl.terminal import output, progress_bar

    display, log = progress_bar.display, output.note
    try:
        for synced in sync.rounds(options, os.environ, display, every_s=every_s, log=log):
            output.report(sync_report.lines(synced), sync_report.as_json(synced), as_json)
    except KeyboardInterrupt:
        raise Interrupted("the next sync goes on from here") from None
    raise typer.Exit(synced.exit_code)
