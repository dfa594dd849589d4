"""One configuration of ssh, by plain `ssh` and by a Remote, on nodes of a test cluster."""

import dataclasses
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from tests.soractl.conftest import CLUSTER_SH

ASK = """
import sys
from soractl.remote.connections import Connections, SshOptions
from soractl.remote.nodes import parse_node_list
from soractl.remote.requests import Request
with Connections(SshOptions()) as remote:
    for node in parse_node_list(sys.argv[1]):
        result = remote(node, Request(("printf", "%s|", "one!two", "a\\nb", "it's")), 15)
        print(node.name, result.stdout == "one!two|a\\nb|it's|" or result.reason)
"""
BY_SSH = "Ciphers chacha20-poly1305@openssh.com\n"  # which paramiko lacks


@dataclasses.dataclass
class Row:
    """One configuration: lines of ~/.ssh/config, `@HOME` being the home folder."""

    lines: str
    node: str = "n1"


def ssh_folder(lab) -> Path:
    """The folder ~/.ssh of everybody on the cluster."""
    return lab.folder / "home" / ".ssh"


def write(lab, row: Row) -> None:
    ssh = ssh_folder(lab)
    (ssh / "config").write_bytes(row.lines.replace("@HOME", str(ssh.parent)).encode("latin-1"))
    (ssh / "config").chmod(0o600)


def in_head(
    lab, *argv: str, env: tuple[str, ...] = (), timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CLUSTER_SH, "head", "env", f"PYTHONPATH={Path.cwd()}", *env, *argv],
        env={**os.environ, "SORACTL_CLUSTER": str(lab.folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def ask(lab, nodes: str, *, env: tuple[str, ...] = ()) -> str:
    """What a Remote answers of each node, a line each."""
    asked = in_head(lab, sys.executable, "-c", ASK, nodes, env=env)
    return asked.stdout.strip() or asked.stderr[-300:]


def both(lab, row: Row, *, env: tuple[str, ...] = ()) -> tuple[bool, str]:
    """Whether plain ssh reaches the node, and what a Remote answers."""
    write(lab, row)
    plain = in_head(lab, "ssh", "-o", "BatchMode=yes", row.node, "true", env=env)
    answer = ask(lab, f"{row.node},", env=env)
    beside = f"plain ssh: {plain.returncode} {plain.stderr.strip()[-200:]}\na Remote: {answer}"
    print(beside)  # noqa: T201 - the test's output shows the two side by side
    return plain.returncode == 0, answer


def start_sshd(lab, number: int, port: int, *options: str, host: str = "") -> None:
    """A second sshd on a node with settings of its own, whose host key is known."""
    config = lab.folder / "keys" / f"n{number}.conf"
    words = [word for line in options for word in ("-o", line)]
    lab.do("node", str(number), "/usr/sbin/sshd", "-f", str(config), "-p", str(port), *words)
    key = (lab.folder / "keys" / f"n{number}.pub").read_text().rsplit(" ", 1)[0]
    with (ssh_folder(lab) / "known_hosts").open("a") as file:
        file.write(f"[{host or f'10.77.0.{10 + number}'}]:{port} {key}\n")


@contextmanager
def login_shell(lab, shell: str):
    """Root's login shell on every machine of the cluster, each of which has its own mounts."""
    passwd = lab.folder / "passwd"
    passwd.write_text(Path("/etc/passwd").read_text().replace("/bin/bash", shell, 1))
    places = [("head",), *(("node", str(k)) for k in range(1, len(lab.nodes) + 1))]
    for place in places:
        lab.do(*place, "mount", "--bind", str(passwd), "/etc/passwd")
    try:
        yield
    finally:
        for place in places:
            lab.do(*place, "umount", "/etc/passwd")
