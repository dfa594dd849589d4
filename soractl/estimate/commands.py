"""The `estimate` command: read arguments, call one function, hand the result to output."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from soractl.remote.options import Hostfile
from soractl.terminal import text
from soractl.terminal.options import Json, Overrides, Runs

app = typer.Typer()


@app.command("estimate")
def estimate(
    stage: Annotated[str, typer.Argument(help="A stage, or `all` for stages 1 to 7.")],
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A table of clips.")],
    ranks: Annotated[int, typer.Option(min=1, help="GPUs that train.")] = 8,
    gpu: Annotated[
        Literal["h100", "h200"] | None,
        typer.Option(help="Rates of this kind alone, whatever was measured here."),
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="Of a GPU-hour; else `price_per_gpu_hour`.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw where the GPU-hours go.")
    ] = None,
    hostfile: Hostfile = None,
    overrides: Overrides = None,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Estimate a stage over a table: steps, GPU-hours, memory, disk.

    Seconds are those that a run of the stage or `launch --rehearse` measured, else by rates; the
    first epoch is as training would plan it. Nothing runs.
    """
    from soractl.estimate import hours_picture, report
    from soractl.estimate import stage as stages
    from soractl.terminal import output

    if picture:
        hours_picture.check_output(picture)
    names = stages.STAGES if stage == "all" else (stage,)
    kind, root = stages.gpu_and_runs(gpu, runs)
    estimates = [stages.estimate(name, table, ranks, kind, overrides or (), root) for name in names]
    price = stages.price_of(hostfile, os.environ) if price is None else price
    found = {"stages": [report.as_json(one, price) for one in estimates]}
    lines = report.stages_lines(estimates, price)
    if stage != "all":
        found, lines = report.as_json(estimates[0], price), report.lines(estimates[0], price)
    if picture:
        notes = hours_picture.write(estimates, picture)
        lines = [*lines, *(notes or [f"picture: {text.path(picture)}"])]
    output.report(lines, found, as_json)
