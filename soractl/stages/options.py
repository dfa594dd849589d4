"""The name of a stage as an argument, completed from the stage files that are there."""

from typing import Annotated

import typer


def complete_stage(incomplete: str) -> list[str]:
    """Stages of `./configs/` and of the package whose names start so."""
    from trainer.stage_files import folders, stage_files

    return [name for name in stage_files(folders()) if name.startswith(incomplete)]


STAGE_HELP = "A stage that `soractl config list` shows."
StageName = Annotated[str, typer.Argument(help=STAGE_HELP, autocompletion=complete_stage)]
StageNames = Annotated[
    list[str],
    typer.Argument(help="One stage, or several to compare.", autocompletion=complete_stage),
]
