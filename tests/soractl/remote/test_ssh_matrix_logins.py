"""Agents, certificates and stand-ins for security keys: a Remote logs in where plain ssh does."""

import base64
import shutil
import struct
import subprocess

import pytest

from tests.soractl.remote.plain_ssh import BY_SSH, Row, both, ssh_folder, start_sshd

pytestmark = [pytest.mark.ssh, pytest.mark.slow]

# A stand-in for ssh whose login needs no key that paramiko can read.
STAND_IN = """#!/bin/sh
case " $* " in *" -G "*) exec /usr/bin/ssh "$@" ;; esac
exec /usr/bin/ssh -i {key} "$@"
"""
# A stand-in for another version of ssh, of whose `-G` the answer is recorded.
RECORDED = """#!/bin/sh
case " $* " in *" -G "*) exec sed "s,/root/,$HOME/," {file} ;; esac
exec /usr/bin/ssh "$@"
"""


@pytest.fixture
def agent(lab):
    """An agent on the head node with the only key; its socket."""
    ssh = ssh_folder(lab)
    socket = ssh / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    while not socket.exists():
        assert process.poll() is None
    subprocess.run(
        ["ssh-add", "-q", ssh / "id_ed25519"], env={"SSH_AUTH_SOCK": str(socket)}, check=True
    )
    for suffix in ("", ".pub"):
        (ssh / f"id_ed25519{suffix}").rename(ssh / f"away{suffix}")
    yield socket
    for suffix in ("", ".pub"):
        (ssh / f"away{suffix}").rename(ssh / f"id_ed25519{suffix}")
    process.terminate()
    process.wait()
    socket.unlink(missing_ok=True)


@pytest.mark.parametrize("lines", ["", BY_SSH])
def test_identity_agent_names_the_socket_of_an_agent_with_the_only_key(lab, agent, lines):
    assert both(lab, Row(f"IdentityAgent {agent}\n{lines}")) == (True, "n1 True")


def test_without_identity_agent_that_key_is_nowhere(lab, agent):
    reached, answer = both(lab, Row(""))
    assert not reached
    assert answer.startswith("n1 unreachable: authentication failed for root: tried no key")


@pytest.mark.parametrize("where", ["beside the key", "away from the key"])
def test_a_certificate_of_the_user(lab, make_key, where):
    authority, folder = lab.folder / f"users {where}", lab.folder / where.replace(" ", "-")
    make_key(authority)
    folder.mkdir()
    key = folder / "id"
    make_key(key)
    subprocess.run(
        ["ssh-keygen", "-q", "-s", authority, "-I", "me", "-n", "root", f"{key}.pub"], check=True
    )
    port = 2320 + len(where)
    start_sshd(lab, 1, port, f'TrustedUserCAKeys="{authority}.pub"', "AuthorizedKeysFile=/dev/null")
    certificate = key.with_name("id-cert.pub")
    lines = f"Host c\n HostName 10.77.0.11\n Port {port}\n IdentityFile {key}\n"
    if where == "away from the key":
        certificate = certificate.rename(lab.folder / "my certificate")
        lines += f' CertificateFile "{certificate}"\n'
    assert both(lab, Row(lines, "c")) == (True, "c True")


def test_an_answer_recorded_of_a_newer_ssh_for_match_localnetwork_and_tagged(lab, request):
    """OpenSSH 10.0 prints for both blocks what it prints without them: they are for others."""
    recorded = request.path.parent.parent.parent / "recorded" / "ssh-10.0-G.txt"
    newer = put(lab, "newer", RECORDED.format(file=recorded))
    assert both(lab, Row(""), env=(f"PATH={newer}",)) == (True, "n1 True")


def test_a_login_by_a_stand_in_for_gssapi(lab):
    ssh = ssh_folder(lab)
    shutil.copy(ssh / "id_ed25519", ssh / "ticket")
    path = put(lab, "gssapi", STAND_IN.format(key=ssh / "ticket"))
    row = Row("GSSAPIAuthentication yes\nIdentityFile @HOME/none\nIdentityAgent none\n")
    assert both(lab, row, env=(f"PATH={path}",)) == (True, "n1 True")


def test_a_login_by_a_stand_in_for_a_security_key(lab):
    ssh = ssh_folder(lab)
    shutil.copy(ssh / "id_ed25519", ssh / "ticket")
    (ssh / "id_ed25519_sk").write_text(security_key())
    (ssh / "id_ed25519_sk").chmod(0o600)
    path = put(lab, "sk", STAND_IN.format(key=ssh / "ticket"))
    row = Row("IdentityFile @HOME/.ssh/id_ed25519_sk\nIdentitiesOnly yes\n")
    assert both(lab, row, env=(f"PATH={path}",)) == (True, "n1 True")


def put(lab, name: str, text: str) -> str:
    """A PATH whose `ssh` is this program."""
    folder = lab.folder / "bin" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ssh").write_text(text)
    (folder / "ssh").chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def security_key() -> str:
    """The file of a key on a token, as PROTOCOL.key and PROTOCOL.u2f of OpenSSH lay it out."""

    def text(value: bytes) -> bytes:
        return struct.pack(">I", len(value)) + value

    kind, application = text(b"sk-ssh-ed25519@openssh.com"), text(b"ssh:")
    public = kind + text(bytes(32)) + application
    private = bytes(8) + public + b"\x01" + text(b"handle") + text(b"") + text(b"token")
    private += bytes(range(1, 1 + -len(private) % 8))
    whole = b"openssh-key-v1\0" + text(b"none") + text(b"none") + text(b"") + struct.pack(">I", 1)
    body = base64.encodebytes(whole + text(public) + text(private)).decode()
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{body}-----END OPENSSH PRIVATE KEY-----\n"
