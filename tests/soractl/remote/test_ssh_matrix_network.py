"""Addresses that swallow packets, the system's configuration, many channels, odd servers."""

import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from soractl.remote.connections import Connections
from soractl.remote.nodes import Node
from soractl.remote.openssh import MOST_CHANNELS
from soractl.remote.requests import Request
from soractl.remote.ssh_command import SshOptions
from tests.soractl.remote.plain_ssh import BY_SSH, Row, ask, both, in_head, ssh_folder, write

pytestmark = [pytest.mark.ssh, pytest.mark.slow]


@pytest.fixture(scope="module")
def swallowing(lab):
    """The name `two` has IPv6 addresses that swallow packets, and then the IPv4 one of n1."""
    lab.do("head", "ip", "address", "replace", "fd77::1/64", "dev", "bridge", "nodad")
    for last in ("98", "99"):
        mac = f"02:00:00:00:00:{last}"
        words = ("neighbor", "replace", f"fd77::{last}", "lladdr", mac, "nud", "permanent")
        lab.do("head", "ip", *words, "dev", "bridge")
    with (lab.folder / "hosts").open("a") as file:
        file.write("fd77::98 two\nfd77::99 two\n10.77.0.11 two\n")
    found = in_head(lab, "getent", "ahosts", "two").stdout
    assert [line.split()[0] for line in found.splitlines() if "STREAM" in line] == [
        "fd77::98",
        "fd77::99",
        "10.77.0.11",
    ]


ADDRESSES = {
    "each address gets its turn": "ConnectTimeout 2\n",
    "each gets its turn in the deadline, without a timeout of its own": "",
    "AddressFamily inet": "AddressFamily inet\n",
}


@pytest.mark.parametrize("client", ["", BY_SSH])
@pytest.mark.parametrize("name", ADDRESSES)
def test_a_name_whose_first_addresses_swallow_packets(lab, swallowing, name, client):
    row = Row(f"HostKeyAlias n1\n{ADDRESSES[name]}{client}", "two")
    if ADDRESSES[name]:
        assert both(lab, row) == (True, "two True")
    else:  # plain ssh waits for minutes
        write(lab, row)
        assert ask(lab, "two,") == "two True"


@pytest.mark.parametrize("client", ["", BY_SSH])
def test_the_configuration_of_the_whole_machine_is_read(lab, client):
    """In the head node's own mount namespace; this machine's file stays as it is."""
    file = lab.folder / "ssh_config_of_all"
    file.write_text(f"Host alias7\n HostName 10.77.0.11\n HostKeyAlias n1\n{client}")
    before = Path("/etc/ssh/ssh_config").read_bytes()
    lab.do("head", "mount", "--bind", str(file), "/etc/ssh/ssh_config")
    try:
        assert Path("/etc/ssh/ssh_config").read_bytes() == before
        assert both(lab, Row("", "alias7")) == (True, "alias7 True")
    finally:
        lab.do("head", "umount", "/etc/ssh/ssh_config")


def test_more_requests_than_channels_wait_for_their_turn(lab):
    write(lab, Row(BY_SSH))
    many = MOST_CHANNELS + 3
    code = f"""
import threading
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node
from soractl.remote.requests import Request
with Connections() as remote:
    answers = []
    def ask(number):
        request = Request(("sh", "-s"), f"sleep 0.3; echo {{number}}")
        answers.append(remote(Node("n1"), request, 30))
    threads = [threading.Thread(target=ask, args=(number,)) for number in range({many})]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(sorted(int(answer.stdout) if answer.ok else answer.reason for answer in answers))
"""
    done = in_head(lab, sys.executable, "-c", code)
    assert done.stdout == f"{list(range(many))}\n", done.stderr


def test_a_killed_soractl_leaves_no_ssh_and_no_socket(lab):
    write(lab, Row(BY_SSH))
    folder = lab.folder / "sockets"
    folder.mkdir()
    code = """
import os
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node
from soractl.remote.requests import Request
with Connections() as remote:
    print(remote(Node("n1"), Request(("echo", "up")), 20).stdout, end="", flush=True)
    print(os.getpid(), flush=True)
    remote(Node("n1"), Request(("sleep", "100")), 120)
"""
    argv = [str(Path(__file__).parents[2] / "cluster" / "cluster.sh"), "head", "env"]
    argv += [f"PYTHONPATH={Path.cwd()}", f"TMPDIR={short(folder)}", sys.executable, "-c", code]
    process = subprocess.Popen(
        argv, env=environment(lab), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "up\n"
    pid = process.stdout.readline().strip()
    [sockets] = short(folder).glob("soractl-*")
    assert list(sockets.iterdir()) != []
    in_head(lab, "kill", f"-{int(signal.SIGKILL)}", pid)
    process.communicate(timeout=20)
    until(lambda: list(sockets.iterdir()) == [])
    until(lambda: str(sockets) not in in_head(lab, "ps", "-e", "-o", "args").stdout)


def test_no_ssh_client_is_one_sentence(lab, tmp_path):
    for program in ("python3", "env"):
        (tmp_path / program).symlink_to(f"/usr/bin/{program}")
    argv = (sys.executable, "-m", "soractl.cli", "gpus", "n1,n2,")
    done = in_head(lab, *argv, env=(f"PATH={tmp_path}",))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-2:] == [
        "error: no `ssh` on this machine",
        "hint: install OpenSSH's client",
    ]


def test_a_hostfile_with_an_ipv6_address_and_a_port(lab, tmp_path):
    lab.do("head", "ip", "address", "replace", "fd77::1/64", "dev", "bridge", "nodad")
    lab.do("node", "1", "ip", "address", "replace", "fd77::11/64", "dev", "eth0", "nodad")
    key = (lab.folder / "keys" / "n1.pub").read_text().rsplit(" ", 1)[0]
    with (ssh_folder(lab) / "known_hosts").open("a") as file:
        file.write(f"fd77::11 {key}\n")
    write(lab, Row(""))
    hostfile = tmp_path / "six.txt"
    hostfile.write_text("[fd77::11]:22\n")
    assert in_head(lab, "ssh", "fd77::11", "true").returncode == 0
    argv = (sys.executable, "-m", "soractl.cli", "exec", str(hostfile), "--", "hostname")
    done = in_head(lab, *argv)
    assert (done.returncode, done.stdout) == (0, "fd77::11: n1\n"), done.stderr


BAD = {
    "a label of 70 letters": "a" * 70,
    "an empty label": "a..b",
    "a host name of nobody": "nobody.invalid",
}


@pytest.mark.parametrize("name", BAD)
def test_a_node_with_a_bad_name_is_its_row(lab, name):
    write(lab, Row("ConnectTimeout 3\n"))
    answers = ask(lab, f"n1,{BAD[name]},n3").splitlines()
    assert [answers[0], answers[2]] == ["n1 True", "n3 True"]
    assert answers[1].startswith(f"{BAD[name]} unreachable: ")


CONFIGURATIONS = {
    "a user who does not exist": "IdentityFile ~nobody-there/key\n",
    "known hosts in a name that is too long": f"UserKnownHostsFile /x/{'y' * 300} /z\n",
    "known hosts that cannot be written": (
        "UserKnownHostsFile /proc/none\nStrictHostKeyChecking accept-new\n"
    ),
    "an IdentityFile that is a folder": "IdentityFile /etc\n",
    "a ProxyCommand that is no program": "ProxyCommand /none\n",
    "a jump host that jumps over itself": "ProxyJump n2\n",
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_node_with_a_bad_configuration_is_its_row(lab, name):
    lines = f"Host n2\n {CONFIGURATIONS[name]}ConnectTimeout 3\n"
    reached, _ = both(lab, Row(lines, "n2"))
    answers = ask(lab, "n1,n2,n3").splitlines()
    assert [answers[0], answers[2]] == ["n1 True", "n3 True"]
    assert (answers[1] == "n2 True") == reached
    assert answers[1].startswith(("n2 True", "n2 unreachable: "))


def packet(kind: int, rest: bytes) -> bytes:
    body = bytes([kind]) + rest
    padding = -(5 + len(body)) % 8 + 8
    return struct.pack(">IB", 1 + len(body) + padding, padding) + body + bytes(padding)


BANNER = b"SSH-2.0-odd\r\n"
ODD = {
    "nothing": b"",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "bytes that are no text": b"\xff\xfe\x00\n" * 40,
    "a banner alone": BANNER,
    "version 1": b"SSH-1.5-old\r\n",
    "a packet that is too long": BANNER + b"\xff\xff\xff\xff" * 9,
    "key exchange without lists": BANNER + packet(20, bytes(16)),
    "lists that are no text": BANNER + packet(20, bytes(16) + b"\x00\x00\x00\x02\xff\xfe" * 10),
    "lists longer than the packet": BANNER + packet(20, bytes(16) + b"\x7f\xff\xff\xff"),
    "a disconnect without a reason": BANNER + packet(1, b""),
    "an unknown message": BANNER + packet(250, b"x" * 40),
    "the end of a key exchange first": BANNER + packet(21, b""),
}


@pytest.mark.parametrize("name", ODD)
def test_a_server_that_answers_oddly_is_a_row(name, tmp_path):
    (tmp_path / "config").touch()
    options = SshOptions(config_file=str(tmp_path / "config"), client="paramiko")
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer_once, args=(server, ODD[name]), daemon=True).start()
        with Connections(options) as remote:
            node = Node("127.0.0.1", port=server.getsockname()[1])
            result = remote(node, Request(("true",)), 10)
    assert result.reason.startswith("unreachable: ")
    assert "odd answer" not in result.reason


def answer_once(server: socket.socket, data: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(data)
        connection.settimeout(3)
        try:
            while connection.recv(4096) and data:
                pass
        except OSError:
            pass


def short(folder: Path) -> Path:
    """A way to the folder that is short enough for sockets."""
    link = Path(f"/tmp/l{folder.stat().st_ino}")
    if not link.exists():
        link.symlink_to(folder)
    return link


def environment(lab) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "SORACTL_CLUSTER": str(lab.folder)}


def until(true) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
