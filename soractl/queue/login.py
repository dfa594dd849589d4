"""A command that is typed elsewhere, as on a laptop, and runs on a login node of the cluster."""

import shlex
import sys
from collections.abc import Sequence

from soractl.errors import ExitCode, SoractlError
from soractl.remote.local import at_this_terminal

NOT_REACHED = 255  # ssh's own exit code
NOT_FOUND = 127


def run_there(login: str, argv: Sequence[str]) -> int:
    """Run this program's own words on a login node; the exit code there.

    SoractlError where the node is not reached, exit code 4, or has no soractl in that folder.
    """
    code = at_this_terminal(ssh_command(login, argv, is_terminal=sys.stdin.isatty()))
    if code == NOT_REACHED:
        raise SoractlError(
            f"{login.partition(':')[0]} is not reached, or the connection was lost; a job goes on",
            hint="`--login` takes what `ssh` takes, and a folder there: ana@login:soractl",
            exit_code=ExitCode.SOME_UNREACHABLE,
        )
    if code == NOT_FOUND:
        raise SoractlError(
            f"there is no soractl at {login}",
            hint="name the folder of its checkout, relative to the home there: ana@login:soractl",
        )
    return code


def ssh_command(login: str, argv: Sequence[str], *, is_terminal: bool) -> tuple[str, ...]:
    """`ssh` with the command for a login node, in a folder with soractl or its environment.

    >>> ssh_command("ana@login:my run", ["--login", "x", "status", "a b"], is_terminal=False)[-1]
    "cd 'my run' && PATH=$PWD/.venv/bin:$PATH exec soractl status 'a b'"
    """
    host, _, folder = login.partition(":")
    here = f"cd {shlex.quote(folder)} && " if folder else ""
    command = shlex.join(["soractl", *_own_words(argv)])
    terminal = ("-t",) if is_terminal else ()
    return ("ssh", *terminal, "--", host, f"{here}PATH=$PWD/.venv/bin:$PATH exec {command}")


def _own_words(argv: Sequence[str]) -> Sequence[str]:
    """Words without `--login NODE`, which stands before the command."""
    if argv[:1] == ["--login"]:
        return argv[2:]
    return argv[1:] if argv and argv[0].startswith("--login=") else argv
