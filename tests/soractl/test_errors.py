from soractl.errors import ExitCode, SoractlError


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
