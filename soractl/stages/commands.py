"""The `config` commands: read arguments, call one function, hand the result to output."""

from typing import Annotated

import typer

from soractl.terminal.options import Json, Overrides

app = typer.Typer(help="Show and compare the settings of stages.", no_args_is_help=True)


@app.command("show")
def show(
    stages: Annotated[list[str], typer.Argument(help="One stage, or several to compare.")],
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
    output.report(config_report.lines(stages, rows), config_report.as_json(stages, rows), as_json)


@app.command("diff")
def diff(
    first: Annotated[str, typer.Argument(help="A stage.")],
    second: Annotated[str, typer.Argument(help="Another.")],
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
    output.report(config_report.lines(names, short), config_report.as_json(names, rows), as_json)
