"""The name of a run as an argument, and a node of it, completed from the folder of runs."""

from pathlib import Path
from typing import Annotated

import typer


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """`latest` and the runs in `--runs` whose names start so, newest first."""
    from trainer.run_dir import runs

    names = [run.name for run in reversed(runs(folder_of_runs(ctx)))]
    return [name for name in ("latest", *names) if name.startswith(incomplete)]


def complete_node_of_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Nodes of the run that is named before."""
    from soractl.errors import SoractlError
    from soractl.runs.find import find_run, last_attempt
    from soractl.runs.record import read_record
    from trainer.atomic_files import RunDirError

    try:
        attempt = last_attempt(find_run(folder_of_runs(ctx), ctx.params.get("run") or "latest"))
        nodes = read_record(attempt).nodes if attempt else ()
    except (SoractlError, RunDirError):
        return []
    return [node.name for node in nodes if node.name.startswith(incomplete)]


def folder_of_runs(ctx: typer.Context) -> Path:
    """The folder that the words so far name, else `runs`."""
    return Path(ctx.params.get("runs") or "runs")


RUN_HELP = "latest, 7, 007-stage2, or its folder."
RunName = Annotated[str, typer.Argument(help=RUN_HELP, autocompletion=complete_run)]
