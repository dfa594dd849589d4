"""The `config` commands: read arguments, call one function, hand the result to output."""

from typing import Annotated

import typer

from soractl.stages.options import StageName, StageNames
from soractl.terminal.options import DryRun, Json, Overrides

app = typer.Typer(help="List, show, compare and copy stages.", no_args_is_help=True)


@app.command("list")
def list_stages(as_json: Json = False) -> None:
    """Show the stages that can be launched, and their files.

    `./configs/` comes first, then the stages that come with soractl.
    """
    from soractl.stages import files as files_of_stages
    from soractl.stages import report as config_report
    from soractl.terminal import output

    found = files_of_stages.listing()
    output.report(config_report.list_table(found), config_report.list_json(found), as_json)


@app.command("copy")
def copy(
    stage: StageName,
    name: Annotated[str | None, typer.Argument(help="Of the copy; else the same.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Copy a stage into `./configs/` to edit it; its parts stay shared."""
    from soractl.stages import files as files_of_stages
    from soractl.stages import report as config_report
    from soractl.terminal import output

    plan = files_of_stages.plan_copy(stage, name or stage)
    if not dry_run:
        files_of_stages.copy(plan)
    lines = config_report.copy_lines(plan, dry_run=dry_run)
    output.report(lines, config_report.copy_json(plan, dry_run=dry_run), as_json)


@app.command("show")
def show(
    stages: StageNames,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show a stage's settings and their files.

    Of several stages: the settings that are not the same in all of them.
    """
    from soractl.stages import comparison
    from soractl.stages import report as config_report
    from soractl.terminal import output
    from trainer.config import load_stage

    loaded = [load_stage(name, tuple(overrides or ())) for name in stages]
    rows = comparison.one(loaded[0]) if len(loaded) == 1 else comparison.differing(loaded)
    output.report(config_report.parts(stages, rows), config_report.as_json(stages, rows), as_json)


@app.command("diff")
def diff(
    first: StageName,
    second: StageName,
    as_json: Json = False,
) -> None:
    """Show in what two stages differ, long tables folded."""
    from soractl.stages import comparison
    from soractl.stages import report as config_report
    from soractl.terminal import output
    from trainer.config import load_stage

    names = [first, second]
    rows = comparison.differing([load_stage(name) for name in names])
    short = comparison.folded(rows)
    output.report(config_report.parts(names, short), config_report.as_json(names, rows), as_json)
