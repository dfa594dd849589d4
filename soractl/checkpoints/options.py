"""A run or a checkpoint of one as an argument, completed from the folder of runs."""

import typer


def complete_checkpoint(ctx: typer.Context, incomplete: str) -> list[str]:
    """Runs whose names start so; after a run's name and `/`, its complete checkpoints' folders."""
    from soractl.runs.options import complete_run, folder_of_runs
    from trainer.run_dir import runs

    paths = [
        str(checkpoint.path)
        for run in reversed(runs(folder_of_runs(ctx)))
        for checkpoint in run.checkpoints()
    ]
    return [
        *complete_run(ctx, incomplete),
        *(path for path in paths if path.startswith(incomplete)),
    ]
