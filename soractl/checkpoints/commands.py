"""The `ckpt` commands: read arguments, call one function, hand the result to output."""

from pathlib import Path
from typing import Annotated

import typer

from soractl.checkpoints.options import complete_checkpoint
from soractl.runs.options import RunName
from soractl.stages.options import complete_stage
from soractl.terminal.options import DryRun, Json, Runs

app = typer.Typer(
    help="List, check, remove and take over checkpoints.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def ckpt_list(run: RunName = "latest", as_json: Json = False, runs: Runs = "runs") -> None:
    """Show a run's checkpoints, and why folders among them are none."""
    from soractl.checkpoints import manage as checkpoints
    from soractl.checkpoints import report as checkpoint_report
    from soractl.terminal import output

    found = checkpoints.listing(Path(runs).absolute(), run)
    output.report(checkpoint_report.list_parts(found), checkpoint_report.list_json(found), as_json)


@app.command("verify")
def ckpt_verify(
    what: Annotated[
        str, typer.Argument(metavar="[RUN|PATH]", autocompletion=complete_checkpoint)
    ] = "latest",
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Read every file of a run's checkpoints, or of one, and compare checksums."""
    from soractl.checkpoints import manage as checkpoints
    from soractl.checkpoints import report as checkpoint_report
    from soractl.terminal import output, progress_bar

    with progress_bar.display() as display:
        verified = checkpoints.verify(Path(runs).absolute(), what, display.show)
    lines = checkpoint_report.verify_lines(verified)
    output.report(lines, checkpoint_report.verify_json(verified), as_json)
    raise typer.Exit(verified.exit_code)


@app.command("prune")
def ckpt_prune(
    run: RunName = "latest",
    keep_last: Annotated[int | None, typer.Option(help="Newest that stay; 0: all.")] = None,
    keep_every: Annotated[
        int | None, typer.Option(help="Those of every so many steps stay too; 0: none.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Remove old checkpoints, by default as the run's own settings say."""
    from soractl.checkpoints import manage as checkpoints
    from soractl.checkpoints import report as checkpoint_report
    from soractl.terminal import output

    rule = checkpoints.Rule(keep_last, keep_every)
    pruned = checkpoints.prune(Path(runs).absolute(), run, rule, dry_run=dry_run)
    lines = checkpoint_report.prune_lines(pruned)
    output.report(lines, checkpoint_report.prune_json(pruned), as_json)


@app.command("latest")
def ckpt_latest(run: RunName = "latest", runs: Runs = "runs") -> None:
    """Print the newest complete checkpoint's folder, for scripts."""
    from soractl.checkpoints import manage as checkpoints
    from soractl.terminal import output

    output.verbatim(str(checkpoints.latest(Path(runs).absolute(), run).path))


@app.command("adopt")
def ckpt_adopt(
    folder: Annotated[
        Path, typer.Argument(help="epoch0-global_step100, as the reference wrote it.")
    ],
    stage: Annotated[
        str,
        typer.Argument(help="The stage that it was trained in.", autocompletion=complete_stage),
    ],
    dry_run: DryRun = False,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Make a run of a checkpoint that the reference wrote, for stages to start from.

    Weights and averages are taken over, every tensor checked; the optimizer starts anew.
    """
    from soractl.checkpoints import adopt as adoption
    from soractl.checkpoints import report as checkpoint_report
    from soractl.remote.connections import Connections
    from soractl.terminal import output

    with Connections() as remote:
        plan = adoption.plan(folder, stage, Path(runs).absolute(), remote)
        adopted = plan if dry_run else adoption.adopt(plan, remote)
    lines = checkpoint_report.adopt_lines(adopted)
    output.report(lines, checkpoint_report.adopt_json(adopted), as_json)
