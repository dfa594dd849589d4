"""Connections to nodes: each opened once, kept, and asked under a deadline."""

import shlex
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from soractl.errors import Fault, FaultKind
from soractl.remote.captured import Captured
from soractl.remote.deadline import Deadline, DeadlinePassed, no_end_within
from soractl.remote.local import Processes
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult, Request
from soractl.remote.ssh import NoChannel, SshClient, SshConnection, SshFailure
from soractl.remote.ssh_config import SshOptions as SshOptions

ENDED_BY_TIMEOUT = (124, 137)  # `timeout` had to send TERM, or KILL


@dataclass
class _Link:
    lock: threading.Lock = field(default_factory=threading.Lock)
    connection: SshConnection | None = None


class Connections(AbstractContextManager["Connections"]):
    """A Remote that opens each node's connection once and keeps it until the end of `with`.

    >>> with Connections() as remote:
    ...     remote(this_machine(), Request(("echo", "ready")), 5).stdout
    'ready\\n'
    """

    def __init__(self, options: SshOptions | None = None) -> None:
        self._options = options or SshOptions()
        self._lock = threading.Lock()
        self._client: SshClient | None = None
        self._links: dict[Node, _Link] = {}
        self._processes = Processes()
        self._closed = False

    def __call__(self, node: Node, request: Request, deadline_s: float) -> NodeResult:
        """The answer of one node, at the latest when the deadline is over."""
        deadline = Deadline(deadline_s)
        captured = Captured()
        fault = None
        try:
            if node.local:
                self._processes.run(request, captured, deadline)
            else:
                self._run_there(node, request, captured, deadline)
            if captured.exit_code is None:
                fault = Fault(FaultKind.KILLED, "the command ended without an exit code")
        except SshFailure as failure:
            fault = Fault(FaultKind.UNREACHABLE, str(failure))
        except DeadlinePassed:
            fault = no_end_within(deadline_s)
        return NodeResult(
            node,
            stdout=captured.stdout.text,
            stderr=captured.stderr.text,
            exit_code=None if fault else captured.exit_code,
            fault=fault,
            elapsed_s=deadline.elapsed(),
            dropped_bytes=captured.stdout.dropped + captured.stderr.dropped,
        )

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections and every process that was started here."""
        self._closed = True
        for link in list(self._links.values()):
            if link.connection is not None:
                link.connection.close()
        if self._client is not None:
            self._client.close()
        self._processes.close()

    def _run_there(
        self, node: Node, request: Request, captured: Captured, deadline: Deadline
    ) -> None:
        for kept in (True, False):
            connection = self._connection(node, deadline)
            # The node ends a hanging command itself, a little before we stop listening.
            limit = deadline.left() - min(0.5, deadline.left() / 10)
            argv = ("timeout", "-k", "2", f"{limit:.2f}", *request.argv)
            started = deadline.elapsed()
            try:
                connection.run(shlex.join(argv), request.stdin.encode(), captured, deadline)
                break
            except NoChannel:
                # A connection that was kept may have died unnoticed.
                if connection.alive or not kept:
                    raise
        if captured.exit_code in ENDED_BY_TIMEOUT and deadline.elapsed() - started >= limit:
            raise DeadlinePassed

    def _connection(self, node: Node, deadline: Deadline) -> SshConnection:
        with self._lock:
            link = self._links.setdefault(node, _Link())
            if self._client is None:
                self._client = SshClient(self._options, self._processes.start_proxy)
        if not link.lock.acquire(timeout=deadline.left()):
            raise SshFailure(f"no answer within {deadline.seconds:g} s")
        try:
            if link.connection is None or not link.connection.alive:
                link.connection = self._client.connect(node, deadline)
                if self._closed:
                    link.connection.close()
            return link.connection
        finally:
            link.lock.release()
