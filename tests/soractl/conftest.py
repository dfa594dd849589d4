import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from soractl.nodes import Node
from soractl.remote import SshOptions


@dataclass(frozen=True)
class SshServer:
    """An sshd on a loopback address, with all that a client needs to reach it."""

    host: str
    port: int
    folder: Path

    @property
    def node(self) -> Node:
        return Node(self.host, port=self.port)

    @property
    def options(self) -> SshOptions:
        return SshOptions(
            config_file=str(self.folder / "config"),
            known_hosts_file=str(self.folder / "known_hosts"),
            identity_file=str(self.folder / "id_ed25519"),
            connect_timeout_s=3,
        )

    def with_options(self, **changes) -> SshOptions:
        return replace(self.options, **changes)


@pytest.fixture(scope="session")
def start_sshd(tmp_path_factory) -> Iterator:
    """Starts an sshd: `start_sshd("127.0.77.1", "MaxSessions 1", ...)`."""
    missing = [name for name in ("sshd", "ssh-keygen") if not _where(name)]
    if missing:
        _give_up(f"{', '.join(missing)} not installed")
    processes: list[subprocess.Popen] = []

    def start(host: str, *lines: str) -> SshServer:
        folder = tmp_path_factory.mktemp("sshd")
        server = SshServer(host, _free_port(host), folder)
        _make_key(folder / "id_ed25519")
        shutil.copy(folder / "id_ed25519.pub", folder / "authorized_keys")
        host_key = _make_key(folder / "host_key")
        (folder / "known_hosts").write_text(f"[{host}]:{server.port} {host_key}\n")
        (folder / "config").touch()
        (folder / "sshd_config").write_text(
            "\n".join(
                [
                    *lines,  # sshd takes the first value of a setting
                    f"ListenAddress {host}",
                    f"Port {server.port}",
                    f"HostKey {folder}/host_key",
                    f"AuthorizedKeysFile {folder}/authorized_keys",
                    "StrictModes no",
                    "PasswordAuthentication no",
                    "KbdInteractiveAuthentication no",
                    "UsePAM no",
                    "PidFile none",
                    "MaxStartups 500",
                    "SetEnv SHLVL=5",  # or bash would read ~/.bashrc, which may take a second
                ]
            )
        )
        processes.append(_run_sshd(folder))
        return server

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def sshd(start_sshd) -> SshServer:
    return start_sshd("127.0.77.1")


@pytest.fixture(autouse=True)
def no_agent(monkeypatch):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture(scope="session")
def make_key():
    return _make_key


def _make_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> str:
    """A new key pair; returns the public key's line."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path)],
        check=True,
    )
    return " ".join(path.with_name(f"{path.name}.pub").read_text().split()[:2])


def _run_sshd(folder: Path) -> subprocess.Popen:
    command = f"exec {_where('sshd')} -D -e -f {folder}/sshd_config"
    argv = ["sh", "-c", command]
    if getpass.getuser() == "root":
        # sshd wants /run/sshd when root runs it; in a namespace it leaves nothing behind.
        argv = [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-c", f"mount -t tmpfs tmpfs /run && mkdir /run/sshd && {command}"),
        ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    while "Server listening" not in (folder / "log").read_text():
        if process.poll() is not None:
            _give_up(f"sshd does not start: {(folder / 'log').read_text()}")
        time.sleep(0.01)
    return process


def _give_up(reason: str) -> None:
    """In CI a test that cannot run has failed; elsewhere it is skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _where(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as probe:
        return probe.getsockname()[1]
