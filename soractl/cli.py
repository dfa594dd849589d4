"""The `soractl` program: mounts each room's commands and turns errors into exit codes."""

import sys

import typer

from soractl.checkpoints import commands as checkpoint_commands
from soractl.cluster import commands as cluster_commands
from soractl.data import commands as data_commands
from soractl.launch import commands as launch_commands
from soractl.runs import commands as run_commands
from soractl.stages import commands as stage_commands
from soractl.sync import commands as sync_commands

app = typer.Typer(
    help="Launch, watch and resume the training of a text-to-video model on your own cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
for room in (launch_commands, run_commands, cluster_commands, sync_commands):
    app.add_typer(room.app)
app.add_typer(stage_commands.app, name="config")
app.add_typer(checkpoint_commands.app, name="ckpt")
app.add_typer(data_commands.app, name="data")


def main() -> None:
    """What the `soractl` command runs."""
    from soractl.errors import ExitCode, SoractlError
    from trainer.atomic_files import RunDirError
    from trainer.settings import ConfigError

    try:
        app()
    except (SoractlError, ConfigError, RunDirError) as fault:
        from soractl.terminal import output

        output.error(fault)
        sys.exit(fault.exit_code if isinstance(fault, SoractlError) else ExitCode.BAD_REQUEST)


if __name__ == "__main__":
    main()
