"""Programs on this machine: requests to it, long ones whose output is followed, ssh proxies."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from soractl.remote.captured import Captured, Stream
from soractl.remote.deadline import Deadline, DeadlinePassed
from soractl.remote.requests import Request

GRACE_S = 1.0  # what the end of a process may take beyond the deadline
CLEANUP_GRACE_S = 5.0


# Its stdin ends with us, however we end; pdeathsig would look at the thread that started it.
_WITH_US = """
exec 3<&0
"$@" < /dev/null 3<&- & program=$!
{ cat > /dev/null; kill "$program"; } <&3 3<&- 2>/dev/null & watcher=$!
exec 3<&-
wait "$program"; code=$?
kill "$watcher" 2>/dev/null
exit "$code"
"""


@dataclass(frozen=True)
class Background:
    """A program that runs beside this one."""

    process: "subprocess.Popen[bytes]"

    @property
    def alive(self) -> bool:
        """The program has not ended."""
        return self.process.poll() is None

    def end(self) -> None:
        """Ends it, if it still runs."""
        _end(self.process)


def start_detached(argv: Sequence[str], log: Path) -> int:
    """Start a program that outlives this one, in a session of its own; its process id.

    What it prints is appended to `log`.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process.pid


def at_this_terminal(argv: Sequence[str]) -> int:
    """Run a program to its end with this one's input and output; its exit code."""
    try:
        code = subprocess.run(argv).returncode
    except FileNotFoundError:
        return 127
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _readable(data: bytes) -> Iterator[IO[bytes] | int]:
    """A program's stdin: a file that a program may leave unread, or nothing."""
    if not data:
        yield subprocess.DEVNULL
        return
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file


class Processes:
    """Programs started here, which end at the latest with `close`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def run(self, request: Request, captured: Captured, deadline: Deadline) -> None:
        """A program to its end: fills `captured`, or raises DeadlinePassed."""
        self.run_bytes(request.argv, request.stdin.encode(), captured, deadline)

    def run_bytes(
        self, argv: Sequence[str], stdin: bytes, captured: Captured, deadline: Deadline
    ) -> None:
        """As `run`, with any bytes as stdin."""
        with _readable(stdin) as file:
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=file,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=True,
                )
            except OSError as error:
                captured.stderr.kept += f"{argv[0]}: {error.strerror}\n".encode()
                captured.exit_code = 127
                return
        assert process.stdout is not None
        assert process.stderr is not None
        self._keep(process)
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
                with self._lock:
                    self._running.discard(process)

    def start_proxy(self, command: str) -> socket.socket:
        """A ProxyCommand, whose stdin and stdout are the socket."""
        return self.start_channel(("sh", "-c", f"exec {command}"))

    def start_channel(self, argv: Sequence[str]) -> socket.socket:
        """A program, whose stdin and stdout are the socket; it should end with its stdin."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                argv,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._keep(process)
        return ours

    def start(self, argv: Sequence[str], stderr: IO[bytes]) -> "Background":
        """A program that runs until its end, `close`, or the end of this process."""
        process = subprocess.Popen(
            ["sh", "-c", _WITH_US, "sh", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        self._keep(process)
        return Background(process)

    def close(self) -> None:
        """End every program that still runs, also one that a thread starts after this."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            _end(process)

    def _keep(self, process: "subprocess.Popen[bytes]") -> None:
        with self._lock:
            # Those that have ended are no zombies any more once somebody looks at them.
            ended = {one for one in self._running if not one.stdin and one.poll() is not None}
            self._running = self._running - ended | {process}
            is_late = self._closed
        if is_late:
            _end(process)


class Conversation:
    """A program here that answers lines with lines; it ends when its stdin does.

    >>> with Conversation(("cat",)) as program:
    ...     program.send("hello")
    ...     next(program.answers())
    'hello'
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._stderr = Stream()
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        errors = self._process.stderr
        assert errors is not None
        self._reader = threading.Thread(target=self._stderr.read, args=(errors.read,), daemon=True)
        self._reader.start()

    def __enter__(self) -> "Conversation":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, line: str) -> None:
        """Ask; nothing happens if the program has ended: `answers` then ends."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())

    def answers(self) -> Iterator[str]:
        """The lines that the program prints, until it ends."""
        assert self._process.stdout is not None
        rest = b""
        while chunk := self._process.stdout.read(2**16):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)

    def last_words(self) -> str:
        """The end of what the program printed to stderr, once it has ended."""
        self._reader.join(CLEANUP_GRACE_S)
        return self._stderr.text.strip()

    def killed_by(self) -> int:
        """The signal that ended the program, once it has ended; 0 if it left by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return max(0, -self._process.wait(CLEANUP_GRACE_S))
        return 0

    def close(self) -> None:
        """End the program, at once."""
        _end(self._process)
        self._reader.join(GRACE_S)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


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
        deadline = Deadline(CLEANUP_GRACE_S)
        while deadline.elapsed() < deadline.seconds:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process that still runs, with its children: one of them may ignore TERM."""
    if process.poll() is None:
        for sign, grace_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, CLEANUP_GRACE_S)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_s)
    if process.stdin is not None:
        process.stdin.close()
