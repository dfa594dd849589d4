import pytest

from soractl.cluster import exec_report
from soractl.cluster.execute import Answers, split
from soractl.errors import Fault, FaultKind, SoractlError
from soractl.remote.folding import fold_names, group
from soractl.remote.nodes import Node, NodeSource
from soractl.remote.requests import NodeResult


def result(name, stdout="", exit_code=0, **more):
    return NodeResult(Node(name), stdout=stdout, exit_code=exit_code, **more)


SAME = [result(f"n{i:02d}", "driver 535\ncuda 12\n") for i in range(1, 5)]
OTHER = result("n05", "driver 550\ncuda 12\n", 3)
DEAD = result("n06", exit_code=None, fault=Fault(FaultKind.UNREACHABLE, "no route"))


def test_names_are_folded_to_ranges():
    names = ["n1", "n3", "n2", "gpu-a01", "10.0.0.7"]
    assert fold_names(names) == "10.0.0.7,gpu-a01,n[1-3]"


def test_equal_answers_are_shown_once_the_most_common_first():
    assert exec_report.lines([DEAD, OTHER, *SAME], diff=False) == [
        "n[01-04]:",
        "  driver 535",
        "  cuda 12",
        "n06: unreachable: no route",
        "n05:",
        "  driver 550",
        "  cuda 12",
        "  exit code 3",
    ]


def test_only_differences_are_shown_when_asked():
    assert exec_report.lines([*SAME, OTHER], diff=True) == [
        "n[01-04]: 2 lines, to which the others are compared",
        "--- n[01-04]",
        "+++ n05",
        "@@ -1,2 +1,3 @@",
        "-driver 535",
        "+driver 550",
        " cuda 12",
        "+exit code 3",
    ]
    assert exec_report.lines(SAME, diff=True) == ["n[01-04]:", "  driver 535", "  cuda 12"]


def test_an_answer_that_was_too_long_says_so():
    [found] = group([result("n1", "a\n", dropped_bytes=7)])
    assert found.lines == ["a", "(7 more bytes were not kept)"]


def test_the_count_says_how_many_answered():
    told = Answers(NodeSource((), "nodes.txt"), (*SAME, OTHER, DEAD), 0.31)
    assert exec_report.count(told) == "nodes.txt: 4 ok, 1 failed, 1 unreachable in 0.3 s"


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
def test_hosts_and_command_that_cannot_be_told_apart_are_an_error(words):
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
