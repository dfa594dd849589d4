import pytest

from soractl.errors import SoractlError
from soractl.queue.login import run_there, ssh_command


@pytest.fixture
def login_node(tmp_path, monkeypatch):
    """`ssh` as a script that types the command here, with a soractl in the folder `there`."""
    soractl = tmp_path / "there/.venv/bin/soractl"
    soractl.parent.mkdir(parents=True)
    soractl.write_text(f'#!/bin/sh\nprintf "%s|" "$PWD" "$@" > {tmp_path}/typed\nexit 6\n')
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text('#!/bin/sh\n[ "$2" = ana@login ] || exit 255\nexec sh -c "$3"\n')
    for program in (soractl, ssh):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_words_arrive_as_they_were_typed_and_the_exit_code_comes_back(login_node):
    words = ["launch", "stage2", "--set", "log.name=it's a $HOME"]
    assert run_there("ana@login:there", ["--login=ana@login:there", *words]) == 6
    typed = (login_node / "typed").read_text().split("|")
    assert typed == [f"{login_node}/there", *words, ""]


@pytest.mark.parametrize(
    ("login", "message", "code"),
    [
        ("ben@login", "ben@login is not reached, or the connection was lost; a job goes on", 4),
        ("ana@login", "there is no soractl at ana@login", 2),
    ],
)
def test_a_node_that_is_not_reached_or_has_no_soractl_is_one_sentence(
    login_node, login, message, code
):
    with pytest.raises(SoractlError) as caught:
        run_there(login, ["--login", login, "status"])
    assert (caught.value.message, caught.value.exit_code) == (message, code)


def test_a_terminal_there_belongs_to_a_terminal_here():
    assert ssh_command("login", ["status"], is_terminal=True)[:4] == ("ssh", "-t", "--", "login")
