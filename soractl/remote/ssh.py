"""A connection by paramiko: reaching a node, its host key, authentication, commands."""

import base64
import contextlib
import functools
import hashlib
import logging
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soractl.remote.captured import Captured
from soractl.remote.deadline import Deadline, DeadlinePassed
from soractl.remote.known_hosts import KnownHosts
from soractl.remote.nodes import Node
from soractl.remote.ssh_answer import Route
from soractl.remote.ssh_command import NoChannel, NotServed, SshFailure
from soractl.terminal.text import span

if TYPE_CHECKING:
    import paramiko

MOST_JUMPS = 8
IDLE_S = 5.0  # how long a connection's thread sleeps while nothing comes


class SshConnection:
    """An authenticated connection; every request gets a channel of its own."""

    def __init__(self, transport: "paramiko.Transport") -> None:
        self._transport = transport
        # Its thread wakes up ten times a second otherwise: for 24 nodes most of a watcher's cost.
        transport.sock.settimeout(IDLE_S)

    @property
    def alive(self) -> bool:
        return self._transport.is_active()

    def run(self, command: str, stdin: bytes, captured: Captured, deadline: Deadline) -> None:
        """Fills `captured`; DeadlinePassed or SshFailure leave in it what came before."""
        with _closing_at(deadline, self._transport):
            channel = self._start(command)
            readers = captured.reading(channel.recv, channel.recv_stderr)
            # A command may end without reading what it is sent.
            with contextlib.suppress(OSError):
                channel.sendall(stdin)
                channel.shutdown_write()
            for reader in readers:
                reader.join()
            code = channel.recv_exit_status()
            channel.close()
        if code >= 0:
            captured.exit_code = code
        elif not self.alive:
            raise SshFailure(f"connection lost: {_reason(self._transport.get_exception())}")

    def open(self, command: str, deadline: Deadline) -> "paramiko.Channel":
        """stdin and stdout of a command that runs until its stdin ends."""
        with _closing_at(deadline, self._transport):
            return self._start(command)

    def _start(self, command: str) -> "paramiko.Channel":
        import paramiko

        try:
            channel = self._transport.open_session()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise NoChannel(f"no channel: {_reason(error)}") from None
        try:
            channel.exec_command(command)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise SshFailure(f"the command was not taken: {_reason(error)}") from None
        return channel

    def tunnel(self, host: str, port: int, deadline: Deadline) -> "paramiko.Channel":
        """A channel to another host, seen from this node."""
        import paramiko

        try:
            return self._transport.open_channel(
                "direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=deadline.left()
            )
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise SshFailure(
                f"the jump host cannot reach {host}:{port}: {_reason(error)}"
            ) from None

    def close(self) -> None:
        """Ends the connection and what waits on it."""
        with contextlib.suppress(OSError, EOFError):  # it is closed already
            self._transport.sock.shutdown(socket.SHUT_RDWR)
        self._transport.close()
        # What it sends last may go through a jump host's connection, which is closed next.
        self._transport.join(IDLE_S)


class SshClient:
    """Opens connections; what they share (known hosts, keys, jump hosts) is read once.

    `find_route` finds the route of a jump host.
    """

    def __init__(
        self,
        find_route: Callable[[Node, Deadline], Route],
        start_proxy: Callable[[str], socket.socket],
    ) -> None:
        # Only its reader of ssh's files, which is not used, needs `invoke`: a third of the import.
        with _absent("invoke"):
            import paramiko

        # It logs every failed handshake with a traceback; we say the reason on the node's row.
        paramiko.util.get_logger("paramiko").setLevel(logging.CRITICAL + 1)
        self._find_route = find_route
        self._start_proxy = start_proxy
        self._read_lock = threading.Lock()
        self._jump_lock = threading.RLock()
        self._jumps: dict[tuple[Node, tuple[Node, ...]], SshConnection] = {}
        self._known_hosts = functools.cache(KnownHosts)
        self._load_key = functools.cache(_load_key)

    def connect(self, route: Route, deadline: Deadline) -> SshConnection:
        """An authenticated connection; SshFailure says why there is none.

        NotServed is one that ssh itself may overcome, such as a cipher that paramiko lacks.
        """
        try:
            return self._open(route, deadline, depth=0)
        except DeadlinePassed:
            raise SshFailure(f"no answer within {span(deadline.seconds)}") from None

    def has_authority(self, route: Route) -> bool:
        """known_hosts names an authority for the node, whose certificate paramiko cannot check."""
        return self._known(route).has_authority(route.key_name)

    def close(self) -> None:
        """Ends the connections to jump hosts; the others belong to the caller.

        The last one first: it goes through those before it.
        """
        for connection in reversed(self._jumps.values()):
            connection.close()

    def _open(self, route: Route, deadline: Deadline, *, depth: int) -> SshConnection:
        import paramiko

        sock = self._socket(route, deadline, depth)
        transport = paramiko.Transport(sock)
        try:
            with _closing_at(deadline, transport):
                self._shake_hands(transport, route, deadline)
                self._check_host_key(transport, route)
                self._log_in(transport, route, deadline)
        except DeadlinePassed:
            stage = "authentication" if transport.initial_kex_done else "the key exchange"
            given = span(deadline.seconds)
            raise SshFailure(
                f"{route.host}:{route.port} hangs at {stage}, given up after {given}"
            ) from None
        finally:
            if not transport.is_authenticated():
                transport.close()
                sock.close()
        return SshConnection(transport)

    def _socket(
        self, route: Route, deadline: Deadline, depth: int
    ) -> "socket.socket | paramiko.Channel":
        if route.jumps:
            jump = self._jump(route.jumps[-1], route.jumps[:-1], deadline, depth)
            return jump.tunnel(route.host, route.port, deadline)
        if route.proxy_command:
            return self._start_proxy(route.proxy_command)
        return _dial(route, deadline)

    def _jump(
        self, node: Node, before: tuple[Node, ...], deadline: Deadline, depth: int
    ) -> SshConnection:
        if depth == MOST_JUMPS:
            raise SshFailure(f"more than {MOST_JUMPS} jump hosts")
        if not self._jump_lock.acquire(timeout=deadline.left()):
            raise DeadlinePassed
        try:
            connection = self._jumps.get((node, before))
            if connection is None or not connection.alive:
                route = self._find_route(node, deadline)
                if before:
                    route = replace(route, jumps=before)
                connection = self._open(route, deadline, depth=depth + 1)
                self._jumps[node, before] = connection
            return connection
        except SshFailure as error:
            raise type(error)(f"jump host {node.name}: {error}") from None
        finally:
            self._jump_lock.release()

    def _shake_hands(
        self, transport: "paramiko.Transport", route: Route, deadline: Deadline
    ) -> None:
        known = {key.kind for key in self._known(route).keys_of(route.key_name)}
        options = transport.get_security_options()
        kinds = options.key_types
        # The server shows one key: ask for a kind that we can compare with what is on record.
        options.key_types = sorted(kinds, key=lambda kind: _record_kind(kind) not in known)
        transport.banner_timeout = min(route.connect_timeout_s, deadline.left())
        transport.handshake_timeout = transport.auth_timeout = deadline.left()
        done = threading.Event()
        started = Deadline(transport.banner_timeout)
        transport.start_client(done)
        if not done.wait(deadline.left()):  # not yet closed, which happens at the same moment
            raise DeadlinePassed
        if not transport.is_active():
            deadline.left()
            if not transport.remote_version:
                raise SshFailure(_not_ssh(route, started.elapsed(), transport.banner_timeout))
            raise NotServed(f"no common ssh protocol: {_reason(transport.get_exception())}")

    def _known(self, route: Route) -> KnownHosts:
        with self._read_lock:
            return self._known_hosts(route.known_hosts_files)

    def _check_host_key(self, transport: "paramiko.Transport", route: Route) -> None:
        shown = transport.get_remote_server_key()
        kind, key = shown.get_name(), shown.get_base64()
        known_hosts = self._known(route)
        on_record = known_hosts.keys_of(route.key_name)
        same = [record for record in on_record if record.key == key]
        digest = base64.b64encode(hashlib.sha256(shown.asbytes()).digest()).decode().rstrip("=")
        shown_key = f"{route.key_name} shows {kind} SHA256:{digest}"
        if any(record.revoked for record in same):
            raise SshFailure(f"host key revoked: {shown_key}, see {same[0].place}")
        if same:
            return
        if on_record:
            raise SshFailure(
                f"host key changed: {shown_key}, another stands in {on_record[0].place}"
            )
        if not route.accept_new_host_keys:
            raise SshFailure(f"unknown host key: {shown_key}, which is not in known_hosts")
        known_hosts.add(route.key_name, kind, key)

    def _log_in(self, transport: "paramiko.Transport", route: Route, deadline: Deadline) -> None:
        import paramiko

        tried: list[str] = []
        allowed: list[str] = []
        with contextlib.ExitStack() as stack:
            held: tuple[paramiko.AgentKey, ...] = ()
            if route.use_agent:
                held = stack.enter_context(contextlib.closing(paramiko.Agent())).get_keys()
            for key, name in self._keys(held, route, tried):
                try:
                    more = transport.auth_publickey(route.user, key)
                except paramiko.BadAuthenticationType as error:
                    tried.append(name)
                    allowed = error.allowed_types
                    break
                except paramiko.AuthenticationException:
                    tried.append(name)
                except (paramiko.SSHException, EOFError, OSError) as error:
                    tried.append(f"{name} ({_reason(error)})")
                else:
                    if transport.is_authenticated():
                        return
                    raise NotServed(f"{route.user} needs more than a key: {', '.join(more)}")
                deadline.left()
                if not transport.is_active():
                    tried.append("then the server hung up")
                    break
        wants = f"; the server takes {', '.join(allowed)}" if allowed else ""
        tried_keys = ", ".join(tried) or "no key: no agent, and no identity file is there"
        raise NotServed(f"authentication failed for {route.user}: tried {tried_keys}{wants}")

    def _keys(
        self, held: "tuple[paramiko.AgentKey, ...]", route: Route, tried: list[str]
    ) -> "Iterator[tuple[paramiko.PKey, str]]":
        """Keys in the order of trying: configured ones, which a server with a limit must see."""
        named = {_public_key(file) for file in route.identity_files}
        first = [key for key in held if key.get_base64() in named]
        other = [key for key in held if key not in first and not route.identities_only]
        files = self._key_files(route, {key.get_base64() for key in held}, tried)
        yield from _agent_keys(first)
        if route.configured_keys:
            yield from files
            yield from _agent_keys(other)
        else:
            yield from _agent_keys(other)
            yield from files

    def _key_files(
        self, route: Route, held: set[str], tried: list[str]
    ) -> "Iterator[tuple[paramiko.PKey, str]]":
        for file in route.identity_files:
            with self._read_lock:
                loaded = self._load_key(file)
            if isinstance(loaded, str):
                if _public_key(file) not in held:
                    tried.append(loaded)
            elif loaded is not None and loaded.get_base64() not in held:
                yield loaded, str(file)


@contextlib.contextmanager
def _absent(module: str) -> Iterator[None]:
    """An import of this module fails, unless it is loaded already."""
    modules: dict[str, Any] = sys.modules
    blocked = modules.setdefault(module, None) is None
    try:
        yield
    finally:
        if blocked:
            modules.pop(module, None)


def _agent_keys(keys: "list[paramiko.AgentKey]") -> "Iterator[tuple[paramiko.PKey, str]]":
    return ((key, f"agent key {key.comment or key.get_name()}") for key in keys)


def _load_key(file: Path) -> "paramiko.PKey | str | None":
    """The key of an identity file, None where there is no file, else why it is of no use."""
    import paramiko
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        seen = file.stat()
        if seen.st_uid == os.getuid() and seen.st_mode & 0o077:  # as ssh has it
            return f"{file} (others may read it: chmod 600)"
        return paramiko.PKey.from_path(file)
    except FileNotFoundError:
        return None
    except (paramiko.PasswordRequiredException, TypeError):
        return f"{file} (encrypted: add it to ssh-agent)"
    except UnsupportedAlgorithm:
        return f"{file} (on a security key, which ssh itself must ask)"
    except (paramiko.SSHException, paramiko.pkey.UnknownKeyType, OSError, ValueError) as error:
        return f"{file} (not a usable private key: {_reason(error)})"


def _public_key(file: Path) -> str | None:
    try:
        return file.with_name(f"{file.name}.pub").read_text().split()[1]
    except (OSError, UnicodeDecodeError, IndexError):
        return None


def _record_kind(algorithm: str) -> str:
    return "ssh-rsa" if algorithm.startswith("rsa-") else algorithm


def _not_ssh(route: Route, waited_s: float, limit_s: float) -> str:
    place = route.proxy_command or f"{route.host}:{route.port}"
    if waited_s < limit_s:
        return f"{place} ends the connection before it speaks ssh"
    return f"{place} takes the connection and does not speak ssh within {limit_s:.2g} s"


def _dial(route: Route, deadline: Deadline) -> socket.socket:
    """A connection to the first address that takes one; each gets its turn in the time left."""
    place = f"{route.host}:{route.port}"
    limit = Deadline(min(route.connect_timeout_s, deadline.left()))
    addresses = _resolve(route, limit)
    reason, waited_s = "", 0.0
    for number, (family, address) in enumerate(addresses):
        turn_s = min(route.connect_timeout_s, deadline.left() / (len(addresses) - number))
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(turn_s)
        try:
            sock.connect(address)
        except TimeoutError:
            sock.close()
            waited_s += turn_s
        except OSError as error:
            sock.close()
            reason = f"{place}: {_reason(error)}"
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    raise SshFailure(reason or f"no answer from {place} within {waited_s:.3g} s")


def _resolve(route: Route, deadline: Deadline) -> list[tuple[int, Any]]:
    """getaddrinfo, which knows no timeout, under one: address families and addresses."""
    answers: queue.SimpleQueue[list[tuple[int, Any]] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(
                route.host, route.port, route.family, type=socket.SOCK_STREAM
            )
            answers.put([(family, address) for family, _, _, _, address in found])
        except (OSError, UnicodeError) as error:  # the latter of a label that is too long
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=deadline.left())
    except queue.Empty:
        raise SshFailure(
            f"no answer about the name {route.host} within {span(deadline.seconds)}"
        ) from None
    if isinstance(answer, Exception):
        raise SshFailure(f"{route.host}: {_reason(answer)}")
    return answer


@contextlib.contextmanager
def _closing_at(deadline: Deadline, transport: "paramiko.Transport") -> Iterator[None]:
    """Closes the connection when the time is over, which ends every wait on it."""
    timer = threading.Timer(deadline.left(), transport.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    except SshFailure:
        deadline.left()
        raise
    finally:
        timer.cancel()
    deadline.left()


def _reason(error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, EOFError) or error is None:
        return "closed by the other side"
    return str(error) or type(error).__name__
