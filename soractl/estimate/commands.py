"""The `estimate` command: read arguments, call one function, hand the result to output."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from soractl.terminal.options import Json, Overrides

app = typer.Typer()


@app.command("estimate")
def estimate(
    stage: Annotated[str, typer.Argument(help="A stage, or `all` for stages 1 to 7.")],
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A table of clips.")],
    ranks: Annotated[int, typer.Option(min=1, help="GPUs that train.")] = 8,
    gpu: Annotated[Literal["h100", "h200"], typer.Option(help="Their kind.")] = "h100",
    price: Annotated[float | None, typer.Option(min=0, help="Of a GPU-hour.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Tell what a stage takes over a table: steps, GPU-hours, memory and disk.

    From measured rates and the first epoch as training would plan it; nothing runs.
    """
    from soractl.estimate import report
    from soractl.estimate import stage as stages
    from soractl.estimate.rates import GPUS
    from soractl.terminal import output

    names = stages.STAGES if stage == "all" else (stage,)
    estimates = [stages.estimate(name, table, ranks, GPUS[gpu], overrides or ()) for name in names]
    if stage == "all":
        found = {"stages": [report.as_json(one, price) for one in estimates]}
        output.report(report.stages_lines(estimates, price), found, as_json)
    else:
        output.report(
            report.lines(estimates[0], price), report.as_json(estimates[0], price), as_json
        )
