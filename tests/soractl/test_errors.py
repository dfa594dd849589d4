import pytest

from soractl.errors import (
    INTERRUPTED,
    ExitCode,
    Fault,
    FaultKind,
    SoractlError,
    exit_code_of,
    raise_if_interrupted,
)

UNREACHABLE = Fault(FaultKind.UNREACHABLE, "no route")
LATE = Fault(FaultKind.DEADLINE, "no end within 5 s")
FAILED = Fault(FaultKind.FAILED, "exit code 1")


def test_an_error_has_a_message_a_hint_and_an_exit_code():
    error = SoractlError("no run 007", hint="soractl status", exit_code=ExitCode.NOTHING_SUITABLE)
    assert (str(error), error.message, error.hint, error.exit_code) == (
        "no run 007",
        "no run 007",
        "soractl status",
        6,
    )


def test_an_error_is_a_wrong_request_unless_it_says_otherwise():
    error = SoractlError("no such stage")
    assert (error.hint, error.exit_code) == (None, 2)


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        ([], ExitCode.OK),
        ([None, None], ExitCode.OK),
        ([FAILED, FAILED], ExitCode.FAILED),
        ([None, FAILED], ExitCode.SOME_FAILED),
        ([None, UNREACHABLE], ExitCode.SOME_UNREACHABLE),
        ([UNREACHABLE], ExitCode.SOME_UNREACHABLE),
        ([FAILED, UNREACHABLE], ExitCode.FAILED),
        ([None, FAILED, UNREACHABLE], ExitCode.SOME_FAILED),
        ([LATE, LATE], ExitCode.DEADLINE),
        ([None, LATE], ExitCode.SOME_FAILED),
        ([None, INTERRUPTED], ExitCode.INTERRUPTED),
    ],
)
def test_the_exit_code_separates_some_from_all_and_failed_from_unreachable(faults, code):
    assert exit_code_of(faults) == code


def test_a_fault_reads_as_its_kind_and_its_message():
    assert [str(fault) for fault in (UNREACHABLE, LATE, FAILED, INTERRUPTED)] == [
        "unreachable: no route",
        "deadline: no end within 5 s",
        "exit code 1",
        "interrupted",
    ]


def test_an_interrupted_question_ends_the_command():
    raise_if_interrupted([None, FAILED], "nothing was started")
    with pytest.raises(SoractlError, match=r"^interrupted; nothing was started$") as raised:
        raise_if_interrupted([None, INTERRUPTED], "nothing was started")
    assert raised.value.exit_code == ExitCode.INTERRUPTED
