"""Requests to many nodes at once: over ssh, or here, each under one wall-clock deadline."""

import contextlib
import os
import queue
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

from soractl.errors import ExitCode
from soractl.remote.nodes import Node
from soractl.remote.ssh import (
    Captured,
    Deadline,
    DeadlinePassed,
    NoChannel,
    SshClient,
    SshConnection,
    SshFailure,
)
from soractl.remote.ssh_config import SshOptions as SshOptions

SIGNALS_WAIT_S = 0.5  # one that comes just before a wait is only seen after it
GRACE_S = 1.0  # what the end of a process or of a thread may take beyond the deadline
PUT_AWAY_S = 5.0
INTERRUPTED = "interrupted"  # the error of a node that had not answered when Ctrl-C came
ENDED_BY_TIMEOUT = (124, 137)  # `timeout` had to send TERM, or KILL


@dataclass(frozen=True)
class Request:
    argv: tuple[str, ...]
    stdin: str = ""


@dataclass(frozen=True)
class NodeResult:
    node: Node
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    error: str | None = None
    elapsed_s: float = 0.0
    dropped_bytes: int = 0  # output beyond what is kept of a stream

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    @property
    def unreachable(self) -> bool:
        return (self.error or "").startswith("unreachable")

    @property
    def timed_out(self) -> bool:
        return (self.error or "").startswith("deadline")

    @property
    def interrupted(self) -> bool:
        return self.error == INTERRUPTED


Remote = Callable[[Node, Request, float], NodeResult]
T = TypeVar("T")


def run_everywhere(
    nodes: Sequence[Node],
    request_for: Callable[[Node], Request],
    remote: Remote,
    *,
    deadline_s: float,
    on_result: Callable[[NodeResult], None] | None = None,
) -> list[NodeResult]:
    """Asks all nodes at once; results in the order of `nodes`, each to `on_result` as it comes.

    At Ctrl-C it returns what is there; the nodes that had not answered have the error
    "interrupted".
    """
    return everywhere(
        nodes,
        lambda node: remote(node, request_for(node), deadline_s),
        lambda node, error: NodeResult(node, error=error, elapsed_s=deadline_s),
        deadline_s=deadline_s,
        on_result=on_result,
    )


def everywhere(
    nodes: Sequence[Node],
    work: Callable[[Node], T],
    without_answer: Callable[[Node, str], T],
    *,
    deadline_s: float,
    on_result: Callable[[T], None] | None = None,
) -> list[T]:
    """Does any work on all nodes at once, as `run_everywhere` does with one request."""
    answers: queue.SimpleQueue[tuple[int, T | BaseException]] = queue.SimpleQueue()

    def do(index: int, node: Node) -> None:
        try:
            answers.put((index, work(node)))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            answers.put((index, error))

    results: dict[int, T] = {}
    missing = f"deadline: no end within {deadline_s:g} s"
    try:
        for index, node in enumerate(nodes):
            threading.Thread(target=do, args=(index, node), daemon=True).start()
        for index, result in _arriving(answers, len(nodes), Deadline(deadline_s + GRACE_S)):
            results[index] = result
            if on_result:
                on_result(result)
    except KeyboardInterrupt:
        missing = INTERRUPTED
    for index, node in enumerate(nodes):
        if index not in results:
            results[index] = without_answer(node, missing)
            if on_result:
                on_result(results[index])
    return [results[index] for index in range(len(nodes))]


def _arriving(
    answers: "queue.SimpleQueue[tuple[int, T | BaseException]]", count: int, deadline: Deadline
) -> Iterator[tuple[int, T]]:
    missing = count
    while missing:
        try:
            index, answer = answers.get(timeout=min(deadline.left(), SIGNALS_WAIT_S))
        except queue.Empty:
            continue
        except DeadlinePassed:
            return
        missing -= 1
        if isinstance(answer, BaseException):
            raise answer
        yield index, answer


def sections(text: str) -> dict[str, tuple[str, int]]:
    """Text and number by name; a script closes each section with a line `=== NAME NUMBER`."""
    found: dict[str, tuple[str, int]] = {}
    begin = 0
    for mark in re.finditer(r"^=== ([a-z]+) ([0-9]+)\n", text, flags=re.MULTILINE):
        found[mark[1]] = (text[begin : mark.start()], int(mark[2]))
        begin = mark.end()
    return found


def exit_code(results: Iterable[NodeResult]) -> ExitCode:
    """What a command over many nodes ends with."""
    results = list(results)
    failed = [result for result in results if not (result.ok or result.unreachable)]
    if any(result.interrupted for result in results):
        return ExitCode.INTERRUPTED
    if not failed:
        unreachable = any(result.unreachable for result in results)
        return ExitCode.SOME_UNREACHABLE if unreachable else ExitCode.OK
    if any(result.ok for result in results):
        return ExitCode.SOME_FAILED
    if all(result.timed_out for result in failed):
        return ExitCode.DEADLINE
    return ExitCode.FAILED


@dataclass
class _Link:
    lock: threading.Lock = field(default_factory=threading.Lock)
    connection: SshConnection | None = None


class Connections:
    """A Remote that opens each node's connection once and keeps it until the end of `with`."""

    def __init__(self, options: SshOptions | None = None) -> None:
        self._options = options or SshOptions()
        self._lock = threading.Lock()
        self._client: SshClient | None = None
        self._links: dict[Node, _Link] = {}
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __call__(self, node: Node, request: Request, deadline_s: float) -> NodeResult:
        """The answer of one node, at the latest when the deadline is over."""
        deadline = Deadline(deadline_s)
        captured = Captured()
        error = None
        try:
            if node.local:
                self._run_here(request, captured, deadline)
            else:
                self._run_there(node, request, captured, deadline)
            if captured.exit_code is None:
                error = "killed: the command ended without an exit code"
        except SshFailure as failure:
            error = f"unreachable: {failure}"
        except DeadlinePassed:
            error = f"deadline: no end within {deadline_s:g} s"
        return NodeResult(
            node,
            stdout=captured.stdout.text,
            stderr=captured.stderr.text,
            exit_code=None if error else captured.exit_code,
            error=error,
            elapsed_s=deadline.elapsed(),
            dropped_bytes=captured.stdout.dropped + captured.stderr.dropped,
        )

    def close(self) -> None:
        """Ends all connections and every process that was started here."""
        self._closed = True
        for link in list(self._links.values()):
            if link.connection is not None:
                link.connection.close()
        if self._client is not None:
            self._client.close()
        for process in list(self._processes):
            _end(process)

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
                self._client = SshClient(self._options, self._start_proxy)
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

    def _run_here(self, request: Request, captured: Captured, deadline: Deadline) -> None:
        with tempfile.TemporaryFile() as stdin:
            stdin.write(request.stdin.encode())
            stdin.seek(0)
            try:
                process = subprocess.Popen(
                    request.argv,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=True,
                )
            except OSError as error:
                captured.stderr.kept += f"{request.argv[0]}: {error.strerror}\n".encode()
                captured.exit_code = 127
                return
        assert process.stdout is not None
        assert process.stderr is not None
        self._processes.add(process)
        with process.stdout, process.stderr:
            readers = captured.reading(process.stdout.read, process.stderr.read)
            try:
                for reader in readers:
                    reader.join(deadline.left())
                process.wait(deadline.left())
                code = process.returncode
                captured.exit_code = code if code >= 0 else 128 - code
            except subprocess.TimeoutExpired:
                raise DeadlinePassed from None
            finally:
                _end(process)
                self._processes.discard(process)

    def _start_proxy(self, command: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._processes.add(process)
        return ours


def stream(
    argv: Sequence[str], on_output: Callable[[bytes], None], *, held: Sequence[int] = ()
) -> Captured:
    """Runs a program here for as long as it takes; its output goes to `on_output` as it comes.

    The program ends with this process, also when that is killed, and holds the files `held`
    open as long as any of its own processes lives.
    """
    captured = Captured()
    dies_with_us = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
    try:
        process = subprocess.Popen(
            (*dies_with_us, *argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            pass_fds=held,
        )
    except OSError as error:
        captured.stderr.kept += f"{argv[0]}: {error.strerror}\n".encode()
        captured.exit_code = 127
        return captured
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        errors = threading.Thread(
            target=captured.stderr.read, args=(process.stderr.read,), daemon=True
        )
        errors.start()
        try:
            while chunk := process.stdout.read(2**16):
                on_output(chunk)
            process.wait()
        finally:
            _ask_to_end(process)
            errors.join(GRACE_S)
    captured.exit_code = process.returncode
    return captured


def _ask_to_end(process: "subprocess.Popen[bytes]") -> None:
    """TERM to a program and its children, and time to put away what they have half done."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        deadline = Deadline(PUT_AWAY_S)
        while deadline.elapsed() < deadline.seconds:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process that still runs, with its children: one of them may be deaf to TERM."""
    if process.poll() is None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
