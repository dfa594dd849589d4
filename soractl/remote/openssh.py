"""The system's ssh: one connection a node behind a control socket, a channel for each request."""

import contextlib
import re
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

from soractl.errors import SoractlError
from soractl.remote.captured import Captured
from soractl.remote.deadline import Deadline, DeadlinePassed
from soractl.remote.local import Background, Processes
from soractl.remote.nodes import Node
from soractl.remote.requests import Request
from soractl.remote.ssh_answer import Answer, configuration, jump_hosts, last_words, need_ssh
from soractl.remote.ssh_command import (
    NoChannel,
    NotServed,
    SshFailure,
    SshOptions,
    arguments,
    as_options,
    connecting,
    environment_words,
    jump_arguments,
)
from soractl.terminal.text import span

MOST_CHANNELS = 10  # sshd's MaxSessions
LONGEST_FOLDER = 60  # a socket's path has 108 bytes, of which ssh takes 18 while it makes one
POLL_S = 0.01
_EXIT_WAIT_S = 2.0


class OpensshConnection:
    """A connection that `ssh` holds; requests go over its control socket."""

    def __init__(self, argv: list[str], processes: Processes, master: Background | None) -> None:
        self._argv = argv  # ssh, with which options a request finds the socket
        self._processes = processes
        self._master = master
        self._channels = threading.BoundedSemaphore(MOST_CHANNELS)

    @property
    def alive(self) -> bool:
        """The connection still stands; of somebody else's it is not known, and ssh copes."""
        return self._master is None or self._master.alive

    def run(self, command: str, stdin: bytes, captured: Captured, deadline: Deadline) -> None:
        """Fills `captured`; DeadlinePassed or SshFailure leave in it what came before."""
        if not self._channels.acquire(timeout=deadline.left()):
            raise DeadlinePassed
        try:
            self._processes.run_bytes((*self._argv, command), stdin, captured, deadline)
        finally:
            self._channels.release()
        if not captured.begun and captured.exit_code == 255:
            captured.exit_code = None
            reason = last_words(captured.stderr.text) or "no channel"
            captured.stderr.kept.clear()  # ssh's own words
            raise NoChannel(reason)
        if captured.exit_code == 255 and self._master is not None and not self._master.alive:
            captured.exit_code = None
            raise SshFailure("connection lost")

    def open(self, command: str, deadline: Deadline) -> socket.socket:
        """stdin and stdout of a command that runs until its stdin ends."""
        deadline.left()
        return self._processes.start_channel((*self._argv, command))

    def close(self) -> None:
        """Ends the connection, unless it is the user's own."""
        if self._master is None or not self._master.alive:
            return
        argv = (*self._argv[:-2], "-O", "exit", *self._argv[-2:])
        with contextlib.suppress(DeadlinePassed):
            self._processes.run(Request(argv), Captured(), Deadline(_EXIT_WAIT_S))
        self._master.end()


class OpensshClient:
    """Opens connections by the system's ssh; their sockets lie in one folder of their own."""

    def __init__(self, options: SshOptions, processes: Processes) -> None:
        self._options = options
        self._processes = processes
        self._lock = threading.Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0

    def living(self, node: Node, answer: Answer, deadline: Deadline) -> OpensshConnection | None:
        """The user's own connection to the node, where a ControlPath has one that lives."""
        if answer.get("controlpath", ["none"])[0] == "none":
            return None
        argv = arguments(node, self._options)
        captured = Captured()
        self._processes.run(Request((*argv, "-O", "check", "--", node.name)), captured, deadline)
        if captured.exit_code != 0:
            return None
        argv = [*connection_words(node, answer, self._options), "-o", "ControlMaster=no"]
        return OpensshConnection([*argv, "--", node.name], self._processes, None)

    def connect(self, node: Node, answer: Answer, deadline: Deadline) -> OpensshConnection:
        """An authenticated connection to a node; SshFailure says why there is none."""
        argv = connection_words(node, answer, self._options)
        path = self._socket()
        share = {"ControlMaster": "yes", "ControlPath": path, "ControlPersist": "no"}
        with tempfile.TemporaryFile() as stderr:
            master = self._processes.start(
                [*argv, *as_options(share), "-N", "--", node.name], stderr
            )
            try:
                _await_socket(path, master, deadline)
            except BaseException:
                master.end()
                raise
            if not master.alive:
                raise SshFailure(why_refused(_text(stderr)))
        # Without the socket a request must fail, not open a connection of another kind.
        over = {"ControlPath": path, "ControlMaster": "no", "ProxyCommand": "false"}
        words = ["ssh", "-F", "/dev/null", "-T", *as_options({**over, "BatchMode": "yes"})]
        words += environment_words(answer)
        return OpensshConnection([*words, "--", node.name], self._processes, master)

    def close(self) -> None:
        """Removes the folder of sockets; the connections belong to the caller."""
        if self._folder is not None:
            self._folder.cleanup()

    def _socket(self) -> Path:
        with self._lock:
            if self._folder is None:
                self._folder = socket_folder()
            self._count += 1
            return Path(self._folder.name) / str(self._count)


def connection_words(node: Node, answer: Answer, options: SshOptions) -> list[str]:
    """`ssh` and all its options for a connection to a node, without the node's name."""
    jumps: tuple[Node, ...] = ()
    if options.identity_file or options.known_hosts_file or options.accept_new_host_keys:
        with contextlib.suppress(NotServed):
            jumps = jump_hosts(answer)
    return [
        *arguments(node, options),
        *connecting(answer, options),
        *jump_arguments(jumps, options),
    ]


def words_for_programs(
    node: Node, options: SshOptions, folder: Path, deadline_s: float
) -> tuple[str, ...]:
    """`ssh` with its options for a program such as rsync, whose connections share one.

    It is the user's own where that lives, else one whose socket lies in `folder`.
    """
    need_ssh()
    deadline = Deadline(deadline_s)
    with contextlib.closing(Processes()) as processes:
        answer = configuration(node, options, processes, deadline)
        words = connection_words(node, answer, options)
        if OpensshClient(options, processes).living(node, answer, deadline):
            return (*words, "-o", "ControlMaster=no")
    share = {"ControlMaster": "auto", "ControlPath": folder / "link", "ControlPersist": 5}
    return (*words, *as_options(share))


def socket_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder (0700) for control sockets, whose path is short enough for one."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        if len(parent) <= LONGEST_FOLDER:
            with contextlib.suppress(OSError):
                return tempfile.TemporaryDirectory(
                    prefix="soractl-", dir=parent, ignore_cleanup_errors=True
                )
    raise SoractlError(
        "no folder for ssh's control sockets: /tmp, /var/tmp and /dev/shm refuse one",
        hint="set TMPDIR to a folder with a short path",
    )


def why_refused(stderr: str) -> str:
    """ssh's reason why there is no connection, in one line.

    >>> why_refused("ssh: connect to host n1 port 22: Connection refused\\n")
    'connect to host n1 port 22: Connection refused'
    """
    place = re.search(r"^Offending .* key in (.*)", stderr, re.MULTILINE)
    unknown = re.search(r"^No .* host key is known for .*?(?= and you)", stderr, re.MULTILINE)
    if "REVOKED HOST KEY" in stderr or "is revoked" in stderr:
        return f"host key revoked: {last_words(stderr)}"
    if "HOST IDENTIFICATION HAS CHANGED" in stderr:
        return f"host key changed: another stands in {place[1] if place else 'known_hosts'}"
    if unknown:
        return f"unknown host key: {unknown[0]}"
    return last_words(stderr) or "ssh ended without a word"


def _await_socket(path: Path, master: Background, deadline: Deadline) -> None:
    """Waits until ssh has logged in, when it makes the socket, or has ended."""
    while master.alive and not path.exists():
        try:
            time.sleep(min(POLL_S, deadline.left()))
        except DeadlinePassed:
            raise SshFailure(f"ssh has no connection within {span(deadline.seconds)}") from None


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
