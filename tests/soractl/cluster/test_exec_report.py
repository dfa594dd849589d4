from soractl.cluster import exec_report
from soractl.cluster.execute import Answers
from soractl.errors import Fault, FaultKind
from soractl.remote.nodes import Node, NodeSource
from soractl.remote.requests import NodeResult


def result(name, stdout="", exit_code=0, **more):
    return NodeResult(Node(name), stdout=stdout, exit_code=exit_code, **more)


SAME = [result(f"n{i:02d}", "driver 535\ncuda 12\n") for i in range(1, 5)]


OTHER = result("n05", "driver 550\ncuda 12\n", 3)


DEAD = result("n06", exit_code=None, fault=Fault(FaultKind.UNREACHABLE, "no route"))


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


def test_the_count_says_how_many_answered():
    answers = Answers(NodeSource((), "nodes.txt"), (*SAME, OTHER, DEAD), 0.31)
    assert exec_report.count(answers) == "nodes.txt: 4 ok, 1 failed, 1 unreachable in 0.3 s"
