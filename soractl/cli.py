"""The `soractl` program: mounts each room's commands and turns errors into exit codes."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from soractl.account import commands as account_commands
from soractl.checkpoints import commands as checkpoint_commands
from soractl.cluster import commands as cluster_commands
from soractl.data import commands as data_commands
from soractl.diagnosis import commands as diagnosis_commands
from soractl.doctor import commands as doctor_commands
from soractl.errors import ExitCode, Interrupted, SoractlError
from soractl.estimate import commands as estimate_commands
from soractl.evaluation import commands as evaluation_commands
from soractl.gallery import commands as gallery_commands
from soractl.health import commands as health_commands
from soractl.launch import commands as launch_commands
from soractl.monitor import commands as monitor_commands
from soractl.nccl import commands as nccl_commands
from soractl.runs import commands as run_commands
from soractl.stages import commands as stage_commands
from soractl.supervise import commands as supervise_commands
from soractl.sync import commands as sync_commands

UsageError: Any = typer.BadParameter.__base__  # Typer exports no other name of it

SECTIONS = {
    "Before training": ("config", "data", "env", "doctor", "health", "estimate"),
    "Run": ("launch", "resume", "stop", "kill", "supervise"),
    "Watch": (
        "status",
        "runs",
        "follow",
        "logs",
        "events",
        "report",
        "nodes",
        "monitor",
        "gpus",
        "clock",
        "exec",
    ),
    "Diagnose": ("why", "diagnose", "stacks"),
    "Keep": ("sync", "ckpt"),
    "See": ("sample", "eval", "gallery"),
}


class Program(TyperGroup):
    """The commands in sections, as an operator meets them; Ctrl-C in any of them is an error."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        known = {name for names in SECTIONS.values() for name in names}
        more = [name for name in self.list_commands(ctx) if name not in known]
        for title, names in {**SECTIONS, "More": tuple(more)}.items():
            rows = [(name, self.commands[name]) for name in names if name in self.commands]
            if rows:
                with formatter.section(title):
                    limit = formatter.width - 14
                    formatter.write_dl([(n, c.get_short_help_str(limit)) for n, c in rows])


ROOMS: tuple[Any, ...] = (
    estimate_commands,
    launch_commands,
    supervise_commands,
    account_commands,
    run_commands,
    diagnosis_commands,
    cluster_commands,
    doctor_commands,
    health_commands,
    sync_commands,
    monitor_commands,
    evaluation_commands,
    gallery_commands,
)
GROUPS: dict[str, Any] = {  # rooms whose commands stand behind a word of their own
    "config": stage_commands,
    "env": nccl_commands,
    "ckpt": checkpoint_commands,
    "data": data_commands,
}


def _print_version(asked: bool) -> None:
    if asked:
        from soractl import __version__
        from soractl.terminal import output

        output.result(f"soractl {__version__}")
        raise typer.Exit


def options(
    login: Annotated[
        str | None,
        typer.Option(
            metavar="NODE[:FOLDER]", help="Type the command on this login node, over ssh."
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version."),
    ] = False,
) -> None:
    """Launch, watch and resume the training of a text-to-video model on your own cluster."""
    if login is not None:
        from soractl.queue.login import run_there

        raise typer.Exit(run_there(login, sys.argv[1:]))


def program(rooms: Iterable[Any] = ROOMS, groups: Mapping[str, Any] = GROUPS) -> typer.Typer:
    """`soractl` with the commands of all rooms, or of some."""
    made = typer.Typer(
        cls=Program, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    for room in rooms:
        made.add_typer(room.app)
    for word, room in groups.items():
        made.add_typer(room.app, name=word)
    made.callback()(options)
    return made


app = program()


def asked(words: Sequence[str]) -> typer.Typer:
    """The program as far as these words need it: to make all commands takes as long as to run one.

    >>> [info.typer_instance is cluster_commands.app for info in asked(["gpus"]).registered_groups]
    [True]
    """
    word = words[0] if words else ""
    if word in GROUPS:
        return program((), {word: GROUPS[word]})
    rooms = [room for room in ROOMS if word in _names(room.app)]
    return program(rooms, {}) if rooms else app


def _names(room: typer.Typer) -> set[str | None]:
    commands = room.registered_commands
    return {each.name or (each.callback and each.callback.__name__) for each in commands}


def main() -> None:
    """Run one command; every error ends here as lines on stderr and an exit code.

    With --json it is an object on stdout too: `error`, `hint` and `exit_code`.
    """
    as_json = "--json" in _own_words(sys.argv[1:])
    try:
        code = _run(as_json)
    except KeyboardInterrupt:  # before or after the command itself
        code = _reported(Interrupted(), as_json)
    sys.exit(code)


def _run(as_json: bool) -> int:
    from trainer.atomic_files import RunDirError
    from trainer.settings import ConfigError

    try:
        return asked(sys.argv[1:])(standalone_mode=False) or 0
    except UsageError as error:
        error.show()
        fault = SoractlError(error.format_message(), exit_code=error.exit_code)
        return _reported(fault, as_json, shown=True)
    except SoractlError as error:
        return _reported(error, as_json)
    except (ConfigError, RunDirError) as error:
        return _reported(SoractlError(str(error)), as_json)
    except OSError as error:  # of the file system: no room, no permission, read-only, stale
        if error.filename is None:
            raise
        fault = SoractlError(f"{error.filename}: {error.strerror}", exit_code=ExitCode.FAILED)
        return _reported(fault, as_json)


def _reported(fault: SoractlError, as_json: bool, *, shown: bool = False) -> int:
    from soractl.terminal import output

    if not shown:
        output.error(fault)
    if as_json:
        output.json_error(fault)
    return fault.exit_code


def _own_words(words: list[str]) -> list[str]:
    """The words that are not those of a command for the nodes."""
    return words[: words.index("--")] if "--" in words else words


if __name__ == "__main__":
    main()
