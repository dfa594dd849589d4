"""Errors that a user can put right, and faults of single nodes.

    SoractlError        ends the command: a message, a hint, an exit code
      Interrupted       Ctrl-C ended it: exit code 130, and what goes on or was not done
    Fault               one node's, which stays a row of the command's result
      UNREACHABLE       no connection, or the connection was lost
      DEADLINE          no answer within the time that was given
      INTERRUPTED       Ctrl-C came before the node had answered
      KILLED            the command ended without an exit code
      FAILED            the command ended and its result is bad

`exit_code_of` turns the faults of all nodes into the exit code of a command.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Exit codes of all commands; README lists them for users."""

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
    """An error that is not a bug; `cli.main` prints it and ends with `exit_code`."""

    def __init__(
        self, message: str, *, hint: str | None = None, exit_code: int = ExitCode.BAD_REQUEST
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = int(exit_code)


class Interrupted(SoractlError):
    """Ctrl-C ended the command.

    >>> str(Interrupted("nothing was started"))
    'interrupted; nothing was started'
    """

    def __init__(self, consequence: str = "", *, hint: str | None = None) -> None:
        message = f"interrupted; {consequence}" if consequence else "interrupted"
        super().__init__(message, hint=hint, exit_code=ExitCode.INTERRUPTED)


class FaultKind(StrEnum):
    """Kinds of faults, as drawn above."""

    UNREACHABLE = "unreachable"
    DEADLINE = "deadline"
    INTERRUPTED = "interrupted"
    KILLED = "killed"
    FAILED = "failed"


@dataclass(frozen=True)
class Fault:
    """A node's fault as a value.

    >>> str(Fault(FaultKind.UNREACHABLE, "connection refused"))
    'unreachable: connection refused'
    """

    kind: FaultKind
    message: str = ""

    def __str__(self) -> str:
        if self.kind is FaultKind.FAILED:
            return self.message
        return f"{self.kind}: {self.message}" if self.message else str(self.kind)


INTERRUPTED = Fault(FaultKind.INTERRUPTED)


def exit_code_of(faults: Iterable[Fault | None]) -> ExitCode:
    """Exit code of a command over many nodes, from each node's fault (None: it worked).

    130 after Ctrl-C, 0 without faults, 4 if nodes are only unreachable, 3 if others worked,
    124 if all passed the deadline, else 1.
    """
    found = list(faults)
    kinds = {fault.kind for fault in found if fault is not None}
    if FaultKind.INTERRUPTED in kinds:
        return ExitCode.INTERRUPTED
    if not kinds:
        return ExitCode.OK
    if kinds == {FaultKind.UNREACHABLE}:
        return ExitCode.SOME_UNREACHABLE
    if None in found:
        return ExitCode.SOME_FAILED
    return ExitCode.DEADLINE if kinds == {FaultKind.DEADLINE} else ExitCode.FAILED


def raise_if_interrupted(faults: Iterable[Fault | None], consequence: str) -> None:
    """Interrupted if Ctrl-C came before all nodes had answered."""
    if any(fault == INTERRUPTED for fault in faults):
        raise Interrupted(consequence)
