"""More words of ssh's configuration and odd servers, by both clients beside plain ssh."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.missing import give_up
from tests.soractl.remote.plain_ssh import (
    ASK,
    Row,
    in_head,
    login_shell,
    ssh_folder,
    start_sshd,
    write,
)
from tests.waiting import wait_for

pytestmark = [pytest.mark.ssh, pytest.mark.slow]

BY_EACH = (
    ASK.replace("with Conn", "for client in ('auto', 'openssh'):\n  with Conn")
    .replace("SshOptions()", "SshOptions(client=client)")
    .replace("\n    ", "\n      ")
)


def reached(lab, row, *, env=()):
    """Whether plain ssh reaches the node, and each of the two clients."""
    write(lab, row)
    plain = in_head(lab, "ssh", "-o", "BatchMode=yes", row.node, "true", env=env)
    asked = in_head(lab, sys.executable, "-c", BY_EACH, f"{row.node},", env=env)
    answers = asked.stdout.splitlines() or [asked.stderr]
    print(f"plain ssh: {plain.returncode} {plain.stderr.strip()[-200:]}", *answers, sep="\n")  # noqa: T201 - side by side
    return [plain.returncode == 0, *(line == f"{row.node} True" for line in answers)]


EVERY = [True, True, True]
WORDS = {
    "Host with an exception": Row("Host !n1 *\n Port 2222\n"),
    "a name in capitals": Row("", "N1"),
    "Host in capitals": Row("Host ALPHA\n HostName N1\n", "ALPHA"),
    "CanonicalizeHostname": Row(
        "CanonicalizeHostname always\nCanonicalDomains lab\nCanonicalizeFallbackLocal yes\n"
    ),
    "Include with a tilde": Row("Include ~/.ssh/nothing-there\nInclude ~/.ssh/of_home\n"),
    "Match exec with tokens": Row('Match exec "test %n = n9"\n Port 2222\n'),
    "User by Match": Row("Match originalhost n1 user nobody\n Port 1\nMatch host n1\n User root\n"),
    "HostName with a token": Row("Host 11\n HostName 10.77.0.%h\n HostKeyAlias n1\n", "11"),
    "ProxyCommand with all tokens": Row(
        "Host n3\n ProxyCommand ssh -o LogLevel=ERROR -W [%h]:%p %r@n2 # %n\n", "n3"
    ),
    "ProxyCommand none under a pattern": Row(
        "Host n1\n ProxyCommand none\nHost *\n ProxyJump n9\n"
    ),
    "ProxyJump over two": Row("Host n3\n ProxyJump n1,ssh://root@n2:22\n", "n3"),
    "hashed known hosts": Row("HashKnownHosts yes\nUserKnownHostsFile @HOME/.ssh/kh_hashed\n"),
    "known hosts by pattern": Row("UserKnownHostsFile @HOME/.ssh/kh_pattern\n"),
    "KnownHostsCommand": Row(
        "UserKnownHostsFile /dev/null\nKnownHostsCommand /bin/cat @HOME/.ssh/kh_pattern\n"
    ),
    "HostKeyAlgorithms": Row("HostKeyAlgorithms ssh-ed25519\n"),
    "PubkeyAcceptedAlgorithms": Row("PubkeyAcceptedAlgorithms ssh-ed25519\n"),
    "LogLevel DEBUG3": Row("LogLevel DEBUG3\n"),
    "VisualHostKey and Compression": Row("VisualHostKey yes\nCompression yes\n"),
    "ControlMaster auto without a master": Row("ControlMaster auto\nControlPath /tmp/cm-none-%C\n"),
    "CheckHostIP": Row("CheckHostIP yes\n"),
    "BindAddress": Row("BindAddress 10.77.0.1\n"),
    "LocalCommand": Row("PermitLocalCommand yes\nLocalCommand echo here\n"),
    "no known hosts and no question": Row(
        "UserKnownHostsFile /dev/null\nGlobalKnownHostsFile /dev/null\nStrictHostKeyChecking no\n"
    ),
}


@pytest.fixture(scope="module")
def known_hosts(lab):
    ssh = ssh_folder(lab)
    lines = (ssh / "known_hosts").read_text()
    (ssh / "kh_hashed").write_text(lines)
    subprocess.run(
        ["ssh-keygen", "-q", "-H", "-f", ssh / "kh_hashed"], check=True, stderr=subprocess.DEVNULL
    )
    (ssh / "kh_pattern").write_text(
        "".join(
            f"!n?9,n{number}*,10.77.0.{10 + number} {line.split(' ', 1)[1]}\n"
            for number, line in enumerate(lines.splitlines(), 1)
        )
    )
    (ssh / "of_home").write_text("Host *\n ConnectTimeout 9\n")


@pytest.mark.parametrize("name", WORDS)
def test_what_ssh_reaches_each_client_reaches(lab, known_hosts, name):
    assert reached(lab, WORDS[name]) == EVERY


SERVERS = {
    "a long banner": ("Banner={folder}/banner",),
    "no terminal": ("PermitTTY=no", "PrintMotd=yes"),
    "no forwarding": ("DisableForwarding=yes",),
    "a command that runs what was asked": ('ForceCommand=sh -c "$SSH_ORIGINAL_COMMAND"',),
    "one session": ("MaxSessions=1",),
    "only an RSA host key": ("HostKey={folder}/rsa",),
    "new keys all the time": ("RekeyLimit=16K",),
    "only RSA signatures with SHA-512": ("PubkeyAcceptedAlgorithms=rsa-sha2-512",),
    "compression": ("Compression=yes",),
}


@pytest.fixture(scope="module")
def keys(lab):
    """User keys of several kinds and formats, all of which may log in."""
    ssh = ssh_folder(lab)
    kinds = {
        "rsa_pem": ("-t", "rsa", "-m", "PEM"),
        "ecdsa_pkcs8": ("-t", "ecdsa", "-m", "PKCS8"),
        "ed25519": ("-t", "ed25519"),
        "open": ("-t", "ed25519"),
        "locked": ("-t", "ed25519", "-N", "secret"),
    }
    for name, words in kinds.items():
        words = words if "-N" in words else (*words, "-N", "")
        subprocess.run(["ssh-keygen", "-q", *words, "-f", ssh / name], check=True)
        with (ssh / "authorized_keys").open("a") as file:
            file.write((ssh / f"{name}.pub").read_text())
    (ssh / "open").chmod(0o644)
    return ssh


@pytest.mark.parametrize(("name", "port"), [(name, 2400 + i) for i, name in enumerate(SERVERS)])
def test_a_server_with_settings_of_its_own(lab, keys, name, port):
    (lab.folder / "banner").write_text("Only for the staff of the laboratory.\n" * 300)
    if not (lab.folder / "rsa").exists():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", lab.folder / "rsa"], check=True
        )
    start_sshd(lab, 1, port, *(option.format(folder=lab.folder) for option in SERVERS[name]))
    with (keys / "known_hosts").open("a") as file:
        file.write(f"[10.77.0.11]:{port} {(lab.folder / 'rsa.pub').read_text()}")
    lines = f"Host odd\n HostName 10.77.0.11\n Port {port}\n IdentityFile @HOME/.ssh/rsa_pem\n"
    assert reached(lab, Row(lines, "odd")) == EVERY


@pytest.mark.parametrize("key", ["rsa_pem", "ecdsa_pkcs8", "ed25519", "open", "locked"])
def test_a_key_of_each_kind(lab, keys, key):
    row = Row(f"IdentityFile @HOME/.ssh/{key}\nIdentitiesOnly yes\nIdentityAgent none\n")
    assert reached(lab, row) == [key not in ("open", "locked")] * 3


@pytest.fixture
def agent(lab, keys):
    """An agent that holds the key with a passphrase; its socket."""
    socket = keys / "agent-of-locked"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    wait_for(lambda: socket.exists() or process.poll() is not None)
    asker = keys / "asker"
    asker.write_text("#!/bin/sh\necho secret\n")
    asker.chmod(0o755)
    env = {**os.environ, "SSH_AUTH_SOCK": str(socket), "SSH_ASKPASS": str(asker)}
    env |= {"SSH_ASKPASS_REQUIRE": "force"}
    subprocess.run(
        ["ssh-add", "-q", keys / "locked"], env=env, check=True, stdin=subprocess.DEVNULL
    )
    yield socket
    process.terminate()
    process.wait()
    socket.unlink(missing_ok=True)


@pytest.mark.parametrize("file", ["locked", "locked.pub"])
def test_a_key_with_a_passphrase_in_an_agent(lab, keys, agent, file):
    row = Row(f"IdentityFile @HOME/.ssh/{file}\nIdentitiesOnly yes\n")
    assert reached(lab, row, env=(f"SSH_AUTH_SOCK={agent}",)) == EVERY


@pytest.mark.parametrize("shell", ["rbash", "dash", "zsh"])
def test_a_login_shell_of_each_kind(lab, shell):
    if not (path := shutil.which(shell)):
        give_up(f"{shell} is not installed")
    with login_shell(lab, path):
        assert reached(lab, Row("")) == EVERY


def test_the_environment_that_the_configuration_names_goes_along(lab):
    start_sshd(lab, 1, 2490, "AcceptEnv=ODD_*")
    lines = "Host odd\n HostName 10.77.0.11\n Port 2490\n SendEnv ODD_B*\n"
    write(lab, Row(lines + ' SetEnv "ODD_A=one two"\n'))
    command, env = "echo $ODD_A, $ODD_B", ("ODD_B=three",)
    plain = in_head(lab, "ssh", "odd", command, env=env)
    argv = (sys.executable, "-m", "soractl.cli", "exec", "odd,", "--", command)
    done = in_head(lab, *argv, env=env)
    assert plain.stdout == "one two, three\n"
    assert done.stdout == "odd: one two, three\n"


def test_a_link_local_address_with_its_zone(lab):
    if not Path("/proc/net/if_inet6").exists():
        give_up("this kernel has no IPv6")
    lab.do("head", "ip", "address", "replace", "fe80::1/64", "dev", "bridge", "nodad")
    lab.do("node", "1", "ip", "address", "replace", "fe80::11/64", "dev", "eth0", "nodad")
    write(lab, Row("HostKeyAlias n1\n"))
    plain = in_head(lab, "ssh", "-o", "BatchMode=yes", "fe80::11%bridge", "true")
    assert plain.returncode == 0, plain.stderr
    asked = in_head(lab, sys.executable, "-c", BY_EACH, "[fe80::11%bridge]:22,")
    assert asked.stdout == "fe80::11%bridge True\n" * 2


@pytest.mark.parametrize("level", ["DEBUG3", "QUIET"])
def test_why_a_node_is_not_reached_is_its_row_whatever_ssh_logs(lab, level):
    write(lab, Row(f"Host n2\n Port 2999\n LogLevel {level}\n"))
    asked = in_head(lab, sys.executable, "-c", BY_EACH, "n2,")
    first, second = asked.stdout.splitlines()
    assert "refused" in first
    assert second.startswith("n2 unreachable: ")
    assert "debug" not in second


def test_more_requests_at_once_than_the_nodes_sshd_lets_a_connection_carry(lab):
    start_sshd(lab, 1, 2491, "MaxSessions=1")
    write(lab, Row("Host odd\n HostName 10.77.0.11\n Port 2491\n"))
    code = """
import threading
from soractl.remote.connections import Connections, SshOptions
from soractl.remote.nodes import Node
from soractl.remote.requests import Request
for client in ("auto", "openssh"):
    answers = []
    with Connections(SshOptions(client=client)) as remote:
        def ask(number):
            request = Request(("sh", "-s"), f"sleep 1; echo {number}")
            answer = remote(Node("odd"), request, 30)
            answers.append((answer.stdout, answer.stderr, answer.exit_code))
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    print(sorted(answers) == [(f"{number}\\n", "", 0) for number in range(3)] or answers)
"""
    done = in_head(lab, sys.executable, "-c", code)
    assert done.stdout == "True\nTrue\n", done.stderr
