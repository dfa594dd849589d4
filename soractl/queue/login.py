"""A command that is typed elsewhere, as on a laptop, and runs on a login node of the cluster."""

import re
import shlex
import sys
from collections.abc import Sequence

from soractl.errors import ExitCode, SoractlError
from soractl.remote.local import at_this_terminal
from soractl.remote.ssh_answer import need_ssh
from soractl.remote.ssh_command import for_any_shell

NOT_REACHED = 255  # ssh's own exit code
NOT_FOUND = 127


def run_there(login: str, argv: Sequence[str]) -> int:
    """Run this program's own words on a login node; the exit code there.

    SoractlError where the node is not reached, exit code 4, or has no soractl in that folder.
    """
    need_ssh()
    # A terminal there mixes stderr into stdout and changes lines: not where a pipe reads them.
    is_terminal = all(one.isatty() for one in (sys.stdin, sys.stdout, sys.stderr))
    code = at_this_terminal(ssh_command(login, argv, is_terminal=is_terminal))
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

    >>> ssh_command("ana@login:~/runs", ["--login", "x", "status"], is_terminal=False)[-1]
    "sh -c 'cd ~/runs || exit 127; PATH=$PWD/.venv/bin:$PATH exec soractl status'"
    """
    host, _, folder = login.partition(":")
    here = f"cd {_quoted(folder)} || exit {NOT_FOUND}; " if folder else ""
    command = shlex.join(["soractl", *_own_words(argv)])
    program = f"{here}PATH=$PWD/.venv/bin:$PATH exec {command}"
    terminal = ("-t",) if is_terminal else ()
    return ("ssh", *terminal, "--", host, for_any_shell(("sh", "-c", program)))


def _quoted(folder: str) -> str:
    """A folder for sh, which still finds the home that a leading `~` or `~ana` names."""
    home = re.match(r"~[\w.-]*(/|$)", folder)
    if home is None:
        return shlex.quote(folder)
    rest = folder[home.end() :]
    return home[0] + (shlex.quote(rest) if rest else "")


def _own_words(argv: Sequence[str]) -> Sequence[str]:
    """Words without each `--login NODE`, which stand before the command."""
    words = list(argv)
    while words and words[0].partition("=")[0] == "--login":
        del words[: 2 if words[0] == "--login" else 1]
    return words
