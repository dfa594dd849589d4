"""Host files and nodes as options, completed from `hostfiles/` and from the files themselves."""

from typing import Annotated

import typer

from soractl.terminal.hints import repeated


def complete_hostfile(incomplete: str) -> list[str]:
    """Host files in `hostfiles/` whose names start so; the shell adds other files."""
    from soractl.remote.nodes import HOSTFILE_FOLDER

    names = sorted(path.name for path in HOSTFILE_FOLDER.glob("*.txt"))
    return [name for name in names if name.startswith(incomplete)]


def complete_hosts(incomplete: str) -> list[str]:
    """Host files, then nodes of the default one, each with the comma that makes it a list."""
    import os

    from soractl.errors import SoractlError
    from soractl.remote.nodes import find_nodes

    try:
        nodes = find_nodes(None, environ=os.environ).nodes
    except SoractlError:
        nodes = ()
    names = [f"{node.name}," for node in nodes]
    return [
        *complete_hostfile(incomplete),
        *(name for name in names if name.startswith(incomplete)),
    ]


def complete_first_hosts(ctx: typer.Context, incomplete: str) -> list[str]:
    """The same for the first of several words alone; a command follows."""
    return [] if ctx.params.get("words") else complete_hosts(incomplete)


Hosts = Annotated[
    str | None,
    typer.Argument(
        help="A hostfile, node-[001-024], or of Slurm job:12 or partition:gpu.",
        autocompletion=complete_hosts,
    ),
]
Hostfile = Annotated[
    str | None,
    typer.Option(
        "--hostfile",
        callback=repeated("--hostfile"),
        help="Nodes, one a line, or a list such as node-[001-024].",
        autocompletion=complete_hosts,
    ),
]
