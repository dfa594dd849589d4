"""Connections to nodes: each opened once, kept, and asked under a deadline."""

import contextlib
import math
import shlex
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from soractl.errors import Fault, FaultKind
from soractl.remote.captured import Captured
from soractl.remote.deadline import Deadline, DeadlinePassed, no_end_within
from soractl.remote.local import Processes
from soractl.remote.nodes import Node
from soractl.remote.reaching import Clients
from soractl.remote.requests import NodeResult, Request
from soractl.remote.ssh_command import NoChannel, SshFailure
from soractl.remote.ssh_command import SshOptions as SshOptions
from soractl.terminal.text import span

ENDED_BY_TIMEOUT = (124, 137)  # `timeout` had to send TERM, or KILL
BEGIN = b"soractl: begin\n"
AGAIN_S = 60.0  # for so long a node whose programs end at once gets no second connection for them

# The program is the first line of stdin: a login shell such as tcsh, through which this goes,
# has other ideas of `!` and of lines inside quotes. A restricted shell has no `exec`; most others
# do it without the word.
_READ_PROGRAM = """sh -c 'echo "soractl: begin"; IFS= read -r program; eval "$program"'"""
_NEWLINE = 'n=$(printf "\\nx"); n=${n%x}; '


class Connection(Protocol):
    """An authenticated connection; every request gets a channel of its own."""

    @property
    def alive(self) -> bool:
        """The connection can carry a request."""

    def run(self, command: str, stdin: bytes, captured: Captured, deadline: Deadline) -> None:
        """Fills `captured`; DeadlinePassed or SshFailure leave in it what came before."""

    def open(self, command: str, deadline: Deadline) -> "Stream":
        """stdin and stdout of a command that runs until its stdin ends."""

    def close(self) -> None:
        """Ends the connection and what waits on it."""


class Stream(Protocol):
    """The part of a socket that paramiko's channels have too."""

    def settimeout(self, seconds: float, /) -> None: ...
    def sendall(self, data: bytes, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


class StreamEnded(SshFailure):
    """A program that was kept on a node is gone, or the way to it."""


class Dialogue:
    """A program on a node that answers each line with one line, for as long as it is asked.

    >>> from soractl.remote.nodes import this_machine
    >>> with Connections() as remote:
    ...     remote.dialogue(this_machine(), ("cat",), 5).ask(b"ready", 5)
    b'ready'
    """

    def __init__(self, stream: Stream, own: Connection | None = None) -> None:
        self._stream = stream
        self._own = own  # a connection for it alone
        self._rest = b""
        self.is_closed = False

    def ask(self, line: bytes, within_s: float) -> bytes:
        """The answer to a line; SshFailure where none comes in time, or the program is gone."""
        self.send(line, within_s)
        return self.read_line(within_s)

    def send(self, line: bytes, within_s: float) -> None:
        """Only ask: `read_line` gives the answer."""
        try:
            self._stream.settimeout(within_s)
            self._stream.sendall(line + b"\n")
        except OSError:
            raise StreamEnded("connection lost") from None

    def read_line(self, within_s: float) -> bytes:
        """The next line, which may need no question."""
        deadline = Deadline(within_s)
        try:
            while b"\n" not in self._rest:
                self._stream.settimeout(deadline.left())
                if not (chunk := self._stream.recv(2**16)):
                    raise StreamEnded("the program on the node has ended")
                self._rest += chunk
        except (TimeoutError, DeadlinePassed):
            raise SshFailure(f"no answer within {span(within_s)}") from None
        except OSError:
            raise StreamEnded("connection lost") from None
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def close(self) -> None:
        """Ends the program's stdin, and with it the program."""
        self.is_closed = True
        self._stream.close()
        if self._own is not None:
            self._own.close()


@dataclass
class _Link:
    lock: threading.Lock = field(default_factory=threading.Lock)
    connection: Connection | None = None
    ends_programs_until_s: float = -math.inf  # a second connection was of no use until then


class Connections(AbstractContextManager["Connections"]):
    """A Remote that opens each node's connection once and keeps it until the end of `with`.

    >>> from soractl.remote.nodes import this_machine
    >>> with Connections() as remote:
    ...     remote(this_machine(), Request(("echo", "ready")), 5).stdout
    'ready\\n'
    """

    def __init__(self, options: SshOptions | None = None) -> None:
        self._options = options or SshOptions()
        self._lock = threading.Lock()
        self._clients: Clients | None = None
        self._links: dict[Node, _Link] = {}
        self._dialogues: list[Dialogue] = []
        self._processes = Processes()
        self._closed = False

    def __call__(self, node: Node, request: Request, deadline_s: float) -> NodeResult:
        """The answer of one node, at the latest when the deadline is over."""
        deadline = Deadline(deadline_s)
        captured = Captured(begin=b"" if node.local else BEGIN)
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

    def dialogue(self, node: Node, argv: Sequence[str], within_s: float) -> Dialogue:
        """A program that is started on a node and then asked; SshFailure where it is not."""
        deadline = Deadline(within_s)
        if node.local:
            return self._keep(Dialogue(self._processes.start_channel(argv)))
        try:
            connection = self._connection(node, deadline)
            try:
                return self._begun(connection, None, argv, deadline)
            except (NoChannel, StreamEnded):  # ssh's client ends where it gets no channel
                if connection.alive and time.monotonic() < self._links[node].ends_programs_until_s:
                    raise
                return self._begun_on_another(node, connection, argv, deadline)
        except DeadlinePassed:
            raise SshFailure(f"no answer within {span(within_s)}") from None

    def _begun_on_another(
        self, node: Node, connection: Connection, argv: Sequence[str], deadline: Deadline
    ) -> Dialogue:
        another, own = self._another(node, connection, deadline)
        try:
            return self._begun(another, own, argv, deadline)
        except StreamEnded:
            self._links[node].ends_programs_until_s = time.monotonic() + AGAIN_S
            raise

    def _begun(
        self,
        connection: Connection,
        own: Connection | None,
        argv: Sequence[str],
        deadline: Deadline,
    ) -> Dialogue:
        """A program that has begun; `own` ends with it, also where it does not begin."""
        with contextlib.ExitStack() as undo:
            if own is not None:
                undo.callback(own.close)
            dialogue = self._keep(Dialogue(connection.open(_READ_PROGRAM, deadline), own))
            undo.callback(dialogue.close)
            line = dialogue.ask(as_line(argv).encode(errors="surrogateescape"), deadline.left())
            while line + b"\n" != BEGIN:  # what a login file prints
                line = dialogue.read_line(deadline.left())
            undo.pop_all()
            return dialogue

    def _keep(self, dialogue: Dialogue) -> Dialogue:
        with self._lock:
            self._dialogues = [one for one in self._dialogues if not one.is_closed]
            self._dialogues.append(dialogue)
            is_late = self._closed
        if is_late:
            dialogue.close()
        return dialogue

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections and every process that was started here."""
        with self._lock:
            self._closed = True
            dialogues = list(self._dialogues)
        for dialogue in dialogues:
            dialogue.close()
        for link in list(self._links.values()):
            if link.connection is not None:
                link.connection.close()
        if self._clients is not None:
            self._clients.close()
        self._processes.close()

    def _run_there(
        self, node: Node, request: Request, captured: Captured, deadline: Deadline
    ) -> None:
        connection = self._connection(node, deadline)
        try:
            _ask(connection, request, captured, deadline)
        except NoChannel:
            another, own = self._another(node, connection, deadline)
            with contextlib.closing(own) if own else contextlib.nullcontext():
                _ask(another, request, captured, deadline)

    def _another(
        self, node: Node, connection: Connection, deadline: Deadline
    ) -> tuple[Connection, Connection | None]:
        """A connection after one gave no channel, and once more if it is the caller's to close."""
        if not connection.alive:  # which nobody had noticed
            return self._connection(node, deadline), None
        # The node's sshd lets it carry no more requests: one more, as of plain ssh.
        assert self._clients is not None
        own = self._opened(self._clients, node, deadline)
        return own, own

    def _connection(self, node: Node, deadline: Deadline) -> Connection:
        with self._lock:
            link = self._links.setdefault(node, _Link())
            if self._clients is None:
                self._clients = Clients(self._options, self._processes)
        if not link.lock.acquire(timeout=deadline.left()):
            raise SshFailure(f"no answer within {span(deadline.seconds)}")
        try:
            if link.connection is None or not link.connection.alive:
                link.connection = self._opened(self._clients, node, deadline)
            return link.connection
        finally:
            link.lock.release()

    def _opened(self, clients: Clients, node: Node, deadline: Deadline) -> Connection:
        connection = clients.connect(node, deadline)
        if self._closed:  # meanwhile
            connection.close()
            raise SshFailure("connection lost")
        return connection


def _ask(connection: Connection, request: Request, captured: Captured, deadline: Deadline) -> None:
    # The node ends a hanging command itself, a little before we stop listening.
    limit = deadline.left() - min(0.5, deadline.left() / 10)
    program = as_line(("timeout", "-k", "2", f"{limit:.2f}", *request.argv))
    stdin = f"{program}\n{request.stdin}".encode(errors="surrogateescape")
    started = deadline.elapsed()
    connection.run(_READ_PROGRAM, stdin, captured, deadline)
    if captured.exit_code in ENDED_BY_TIMEOUT and deadline.elapsed() - started >= limit:
        raise DeadlinePassed
    if not captured.begun and captured.exit_code is not None:
        raise SshFailure(_ran_nothing(captured))


def as_line(argv: Sequence[str]) -> str:
    """A program as one line of sh, which it replaces.

    >>> print(as_line(("echo", "a b", "c")))
    exec echo 'a b' c
    """
    words = shlex.join(argv)
    # A word with a newline is in single quotes.
    newline = _NEWLINE if "\n" in words else ""
    return newline + "exec " + words.replace("\n", "'\"$n\"'")


def _ran_nothing(captured: Captured) -> str:
    printed = (captured.before + captured.stderr.text).strip().splitlines()
    what = f": {printed[-1]}" if printed else f" and ended with {captured.exit_code}"
    return f"its login shell ran no command{what}"
