import pytest

from soractl.errors import Fault, FaultKind
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult

N1 = Node("n1")
LOST = Fault(FaultKind.UNREACHABLE, "no route")


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (NodeResult(N1, fault=LOST, stderr="cut off\n"), "unreachable: no route"),
        (NodeResult(N1, stderr="Traceback\nerror: no file\nlast\n", exit_code=1), "no file"),
        (NodeResult(N1, stderr="first\nlast\n\n", exit_code=1), "last"),
        (NodeResult(N1, exit_code=7), "exit code 7"),
    ],
)
def test_the_reason_of_a_failure_is_the_fault_or_the_programs_own_words(result, reason):
    assert result.reason == reason


def test_a_command_that_ended_badly_is_a_problem_and_a_fault_keeps_its_kind():
    assert NodeResult(N1, exit_code=0).problem is None
    assert NodeResult(N1, exit_code=7).problem == Fault(FaultKind.FAILED, "exit code 7")
    assert NodeResult(N1, fault=LOST).problem == LOST
    assert [NodeResult(N1, exit_code=code).ok for code in (0, 1, None)] == [True, False, False]
