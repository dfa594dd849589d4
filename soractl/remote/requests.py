"""Requests to one node and its results: the seam between soractl and the world."""

from collections.abc import Callable
from dataclasses import dataclass

from soractl.errors import Fault, FaultKind
from soractl.remote.nodes import Node


@dataclass(frozen=True)
class Request:
    """A program with its arguments, and what it reads from stdin.

    Scripts go over stdin, so that neither `ps` nor a login shell sees them:

    >>> Request(("sh", "-s"), "uname -r; df -h /")
    Request(argv=('sh', '-s'), stdin='uname -r; df -h /')
    """

    argv: tuple[str, ...]
    stdin: str = ""


@dataclass(frozen=True)
class NodeResult:
    """A node's answer to one request, whole or as far as it came.

    >>> result = NodeResult(Node("n1"), stderr="sh: no such file\\n", exit_code=2)
    >>> result.ok, result.reason
    (False, 'sh: no such file')
    """

    node: Node
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None  # None: the command did not end, or was never started
    fault: Fault | None = None  # why there is no exit code
    elapsed_s: float = 0.0
    dropped_bytes: int = 0  # output beyond what is kept of a stream

    @property
    def ok(self) -> bool:
        """The command ended with 0."""
        return self.exit_code == 0

    @property
    def problem(self) -> Fault | None:
        """The fault, also that of a command that ended with another code than 0."""
        return None if self.ok else self.fault or Fault(FaultKind.FAILED, self.reason)

    @property
    def reason(self) -> str:
        """Reason of the failure: the fault, else what stderr says, else the exit code.

        Of stderr it is the line that our own programs begin with `error: `, or the last line.
        """
        lines = self.stderr.strip().splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return str(self.fault or next(iter(errors or lines[-1:]), f"exit code {self.exit_code}"))


Remote = Callable[[Node, Request, float], NodeResult]
"""A function that asks one node, within a number of seconds, and always returns a result.

Commands get `connections.Connections`; a test passes a function of its own:

>>> def remote(node, request, deadline_s):
...     return NodeResult(node, stdout="4\\n", exit_code=0)
"""
