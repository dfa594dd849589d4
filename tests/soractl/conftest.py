import contextlib
import ctypes
import getpass
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from soractl.remote.nodes import Node
from soractl.remote.ssh_command import SshOptions
from tests.browsing import CHROMIUM
from tests.making import make_manifest, publish_random_files
from tests.missing import give_up
from tests.soractl.sync.copying import Lab

CLUSTER_SH = Path(__file__).parent.parent / "cluster" / "cluster.sh"


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
        give_up(f"{', '.join(missing)} not installed")
    processes: list[subprocess.Popen] = []

    def start(host: str, *lines: str) -> SshServer:
        folder = tmp_path_factory.mktemp("sshd")
        server = SshServer(host, free_port(), folder)
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


@pytest.fixture
def lab(tmp_path, sshd) -> Lab:
    return Lab(tmp_path, sshd)


@dataclass(frozen=True)
class Cluster:
    """Nodes n1 to nN, each with its own network, processes and sshd (tests/cluster)."""

    folder: Path
    size: int

    @property
    def nodes(self) -> list[Node]:
        return [Node(f"n{i}") for i in range(1, self.size + 1)]

    @property
    def options(self) -> SshOptions:
        ssh = self.folder / "home" / ".ssh"
        return SshOptions(
            config_file=str(self.folder / "ssh_config"),
            known_hosts_file=str(ssh / "known_hosts"),
            identity_file=str(ssh / "id_ed25519"),
            connect_timeout_s=3,
        )

    def do(self, *argv: str) -> str:
        """`cluster.sh ARGV`: its output."""
        done = subprocess.run(
            [CLUSTER_SH, *argv],
            env={**os.environ, "SORACTL_CLUSTER": str(self.folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Connections opened inside go through the head node's network."""
        setns = ctypes.CDLL(None, use_errno=True).setns
        head = (self.folder / "pid" / "n0").read_text().strip()
        ours_path, theirs_path = Path("/proc/thread-self/ns/net"), Path(f"/proc/{head}/ns/net")
        with ours_path.open() as ours, theirs_path.open() as theirs:
            assert setns(theirs.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                assert setns(ours.fileno(), 0) == 0


@pytest.fixture
def start_cluster(tmp_path) -> Iterator:
    """Starts nodes: `start_cluster(3)`; they are gone at the end of the test."""
    clusters: list[Cluster] = []

    def start(size: int) -> Cluster:
        cluster = Cluster(tmp_path / f"cluster{len(clusters)}", size)
        try:
            cluster.do("up", str(size))
        except subprocess.CalledProcessError as error:
            give_up(f"no test cluster: {error.stderr}")
        clusters.append(cluster)
        return cluster

    yield start
    for cluster in clusters:
        cluster.do("down")


@pytest.fixture
def save_weights():
    """Publish a complete checkpoint of random weights, half of them in model/, with checksums."""

    def save(run, step, size=2000):
        sizes = {
            "model/model 1.safetensors": size // 2,
            "model/index.json": 20,
            "ema/model.safetensors": size // 2,
            "optimizer/__0_0.distcp": size,
        }
        return publish_random_files(run, make_manifest(step), sizes)

    return save


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
            give_up(f"sshd does not start: {(folder / 'log').read_text()}")
        time.sleep(0.01)
    return process


def _where(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def free_port() -> int:
    """On all addresses, and below those that the kernel deals out: it is bound a while later."""
    while True:
        port = random.SystemRandom().randrange(15_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        names = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", names],  # root, as in containers
        )
        yield chromium
        chromium.close()
