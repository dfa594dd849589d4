import os
import pty
import shutil
import sys
from pathlib import Path

import pytest

from soractl.errors import SoractlError
from soractl.queue.login import run_there, ssh_command
from tests.missing import give_up

SSH = """#!/bin/sh
echo "$1" > "$HERE/terminal"
if [ "$1" = -t ]; then shift; fi
[ "$2" = ana@login ] || exit 255
exec "$LOGIN_SHELL" -c "$3"
"""


@pytest.fixture
def login_node(tmp_path, monkeypatch):
    """`ssh` as a script that types the command here, with a soractl in the folder `there`."""
    soractl = tmp_path / "there/.venv/bin/soractl"
    soractl.parent.mkdir(parents=True)
    soractl.write_text(f'#!/bin/sh\nprintf "%s|" "$PWD" "$@" > {tmp_path}/typed\nexit 6\n')
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH)
    for program in (soractl, ssh):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:/usr/bin:/bin")
    for name, value in {"HERE": tmp_path, "HOME": tmp_path, "LOGIN_SHELL": "sh"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("shell", ["sh", "tcsh"])
def test_words_arrive_as_they_were_typed_and_the_exit_code_comes_back(
    login_node, monkeypatch, shell
):
    if shutil.which(shell) is None:
        give_up(f"{shell} not installed")
    monkeypatch.setenv("LOGIN_SHELL", shell)
    words = ["launch", "stage2", "--set", "log.name=it's a $HOME!x"]
    assert run_there("ana@login:there", ["--login=ana@login:there", *words]) == 6
    typed = (login_node / "typed").read_text().split("|")
    assert typed == [f"{login_node}/there", *words, ""]


@pytest.mark.parametrize("folder", ["~/there", "~/a folder/.."])
def test_the_home_of_the_folder_is_the_one_there(login_node, folder):
    (login_node / "a folder").mkdir()
    (login_node / ".venv").symlink_to("there/.venv")
    assert run_there(f"ana@login:{folder}", ["--login", "x", "status"]) == 6


def test_the_last_of_two_logins_is_the_one_and_none_of_them_is_typed_there():
    argv = ["--login", "a", "--login=b", "status", "--login", "c"]
    assert ssh_command("b", argv, is_terminal=False)[-1].endswith("soractl status --login c'")


@pytest.mark.parametrize(
    ("login", "message", "code"),
    [
        ("ben@login", "ben@login is not reached, or the connection was lost; a job goes on", 4),
        ("ana@login", "there is no soractl at ana@login", 2),
        ("ana@login:no/folder", "there is no soractl at ana@login:no/folder", 2),
    ],
)
def test_a_node_that_is_not_reached_or_has_no_soractl_is_one_sentence(
    login_node, login, message, code
):
    with pytest.raises(SoractlError) as caught:
        run_there(login, ["--login", login, "status"])
    assert (caught.value.message, caught.value.exit_code) == (message, code)


@pytest.mark.parametrize("piped", [None, "stdin", "stdout", "stderr"])
def test_a_terminal_there_belongs_to_three_terminals_here(login_node, monkeypatch, piped):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r+b", buffering=0) as terminal, Path(os.devnull).open("w") as pipe:
        for name in ("stdin", "stdout", "stderr"):
            monkeypatch.setattr(sys, name, pipe if name == piped else terminal)
        run_there("ana@login:there", ["--login", "x", "status"])
        monkeypatch.undo()
    os.close(ours)
    assert (login_node / "terminal").read_text() == ("--\n" if piped else "-t\n")


def test_a_machine_without_ssh_is_the_reason_and_not_the_login_node(login_node, monkeypatch):
    monkeypatch.setenv("PATH", str(login_node))
    with pytest.raises(SoractlError, match="no `ssh` on this machine"):
        run_there("ana@login:there", ["status"])
