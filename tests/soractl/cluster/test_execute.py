import pytest

from soractl.cluster.execute import split
from soractl.errors import SoractlError


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["hostname", "-f"], (None, ["hostname", "-f"])),
        (["nodes.txt", "--", "ls", "-l"], ("nodes.txt", ["ls", "-l"])),
        (
            ["nodes.txt", "--", "git", "log", "--", "file"],
            ("nodes.txt", ["git", "log", "--", "file"]),
        ),
    ],
)
def test_hosts_stand_before_the_dashes(words, parts):
    assert split(words) == parts


@pytest.mark.parametrize("words", [["a", "b", "--", "ls"], ["nodes.txt", "--"]])
def test_words_that_do_not_separate_hosts_from_command_are_an_error(words):
    with pytest.raises(SoractlError, match="cannot tell hosts from command"):
        split(words)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["nodes.txt", "ls", "-l"], "`soractl exec nodes.txt -- ls -l`"),
        (["two.txt"], "`soractl exec two.txt -- hostname`"),
    ],
)
def test_a_host_file_is_no_command(workplace, words, hint):
    for name in ("nodes.txt", "hostfiles/two.txt"):
        workplace.write(name, "n1\nn2\n")
    with pytest.raises(SoractlError, match="is a host file and no command") as caught:
        split(words)
    assert (caught.value.hint, caught.value.exit_code) == (hint, 2)


def test_a_program_is_a_command_though_a_host_file_could_look_like_it(workplace):
    workplace.write("measure", "hostname\n").chmod(0o755)
    assert split(["measure", "now"]) == (None, ["measure", "now"])


def test_a_command_runs_here_without_a_hostfile(workplace):
    done = workplace.soractl("exec", "--", "echo $((1 + 1)); echo b >&2; exit 7", code=1)
    assert done.stdout.splitlines()[1:] == ["  2", "  b", "  exit code 7"]
    assert workplace.soractl("exec", "echo", "$HOME x").stdout.endswith(": $HOME x\n")
