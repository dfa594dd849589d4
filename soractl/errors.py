"""What a user can put right: a message, a hint and an exit code."""

from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    BAD_REQUEST = 2
    SOME_FAILED = 3
    SOME_UNREACHABLE = 4
    REFUSED = 5
    NOTHING_SUITABLE = 6
    GAVE_UP = 93
    DEADLINE = 124
    INTERRUPTED = 130
    TERMINATED = 143


class SoractlError(Exception):
    """Raised for a fault that is not a bug; `cli.main` prints it and ends with `exit_code`."""

    def __init__(
        self, message: str, *, hint: str | None = None, exit_code: int = ExitCode.BAD_REQUEST
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = int(exit_code)
