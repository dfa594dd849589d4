"""What `ssh NODE true` reaches, a Remote reaches: each configuration beside plain ssh."""

import subprocess
import sys

import pytest

from tests.soractl.remote.plain_ssh import (
    ASK,
    BY_SSH,
    Row,
    both,
    in_head,
    login_shell,
    ssh_folder,
    start_sshd,
    write,
)

pytestmark = [pytest.mark.ssh, pytest.mark.slow]

ROWS = {
    "no configuration": Row(""),
    "Match host with an equals sign": Row("Match host=n9\n Port 2222\n"),
    "Match final": Row("Match final all\n ServerAliveInterval 30\n"),
    "IdentityFile with a variable": Row("IdentityFile ${HOME}/.ssh/id_ed25519\n"),
    "IdentityFile with tokens": Row("IdentityFile %d/.ssh/id_ed25519\n"),
    "IdentityAgent none": Row("IdentityAgent none\n"),
    "known hosts with a token": Row("UserKnownHostsFile ~/.ssh/kh_%n\n"),
    "two known hosts with blanks": Row(
        'UserKnownHostsFile "@HOME/.ssh/kh none" "@HOME/.ssh/kh two"\n'
    ),
    "GlobalKnownHostsFile": Row(
        "UserKnownHostsFile /dev/null\nGlobalKnownHostsFile @HOME/.ssh/known_hosts\n"
    ),
    "Include in a Host block": Row("Host other\n Include @HOME/.ssh/p\n"),
    "Include that meets a folder": Row("Include @HOME/.ssh/conf.d/*\n"),
    "a comment that is not UTF-8": Row("# f\xfcr n1\n"),
    "RequestTTY and a forwarding": Row("Host n1\n RequestTTY yes\n LocalForward 9999 n2:22\n"),
    "HostKeyAlias": Row("Host alias1\n HostName 10.77.0.11\n HostKeyAlias n1\n", "alias1"),
    "ProxyJump by name": Row("Host n3\n ProxyJump n2\n", "n3"),
    "ProxyJump by address": Row("Host n3\n ProxyJump 10.77.0.12:22\n", "n3"),
    "ProxyCommand": Row("Host n3\n ProxyCommand ssh -W %h:%p n2\n", "n3"),
    "a cipher that paramiko lacks": Row(BY_SSH),
    "GSSAPI and SendEnv, as Debian has them": Row("GSSAPIAuthentication yes\nSendEnv LANG LC_*\n"),
    "ForwardAgent": Row("ForwardAgent yes\n"),
    "StrictHostKeyChecking no": Row("StrictHostKeyChecking no\n"),
}


@pytest.mark.parametrize("name", ROWS)
def test_what_ssh_reaches_a_remote_reaches(lab, name):
    ssh = ssh_folder(lab)
    known = (ssh / "known_hosts").read_text()
    for file in ("kh_n1", "kh two"):
        (ssh / file).write_text(known)
    (ssh / "conf.d" / "folder").mkdir(parents=True, exist_ok=True)
    (ssh / "p").write_text("Host *\n Port 2222\n")
    row = ROWS[name]
    assert both(lab, row) == (True, f"{row.node} True")


@pytest.mark.parametrize(
    "lines",
    [
        "Match localnetwork 203.0.113.0/24\n ProxyJump nowhere.invalid\n",
        "Match tagged lab\n Port 2222\n",
    ],
)
def test_what_this_ssh_refuses_is_the_nodes_row_in_its_words(lab, lines):
    reached, answer = both(lab, Row(lines))
    if not reached:  # before 9.4
        assert "Match" in answer
        assert answer.startswith("n1 unreachable: ")
    else:
        assert answer == "n1 True"


def test_a_match_that_hangs_costs_one_node_its_deadline(lab):
    write(lab, Row('Match originalhost n2 exec "sleep 60"\n Port 1\n'))
    done = in_head(lab, sys.executable, "-c", ASK.replace(", 15)", ", 8)"), "n1,n2,n3")
    assert done.stdout.splitlines() == [
        "n1 True",
        "n2 unreachable: no answer from `ssh -G n2` within 8 s",
        "n3 True",
    ]


def test_a_living_control_path_is_used(lab):
    write(lab, Row("Host n1\n ControlPath @HOME/.ssh/cm-%h\n IdentityFile @HOME/nothing\n"))
    key = ssh_folder(lab) / "id_ed25519"
    master = in_head(lab, "ssh", "-i", str(key), "-M", "-o", "ControlPersist=30", "-fN", "n1")
    assert master.returncode == 0, master.stderr
    asked = in_head(lab, sys.executable, "-c", ASK, "n1,")
    in_head(lab, "ssh", "-O", "exit", "n1")
    assert asked.stdout == "n1 True\n"


SERVERS = {
    "only chacha20": ("Ciphers=chacha20-poly1305@openssh.com",),
    "only sntrup761": ("KexAlgorithms=sntrup761x25519-sha512@openssh.com",),
    "aes-ctr with umac": ("Ciphers=aes256-ctr", "MACs=umac-64-etm@openssh.com"),
    "aes-gcm with umac": ("Ciphers=aes256-gcm@openssh.com", "MACs=umac-128@openssh.com"),
}


@pytest.mark.parametrize(("name", "port"), [(name, 2300 + i) for i, name in enumerate(SERVERS)])
def test_a_server_with_algorithms_that_paramiko_lacks_is_reached(lab, name, port):
    start_sshd(lab, 1, port, *SERVERS[name])
    row = Row(f"Host odd\n HostName 10.77.0.11\n Port {port}\n", "odd")
    assert both(lab, row) == (True, "odd True")


def test_a_host_certificate_of_a_known_authority_is_accepted(lab, make_key):
    authority = make_key(lab.folder / "authority")
    subprocess.run(
        [
            "ssh-keygen",
            "-q",
            "-s",
            lab.folder / "authority",
            "-I",
            "n2",
            "-h",
            "-n",
            "certified",
            lab.folder / "keys" / "n2.pub",
        ],
        check=True,
    )
    options = ("-p", "2310", "-o", f"HostCertificate={lab.folder}/keys/n2-cert.pub")
    lab.do("node", "2", "/usr/sbin/sshd", "-f", str(lab.folder / "keys" / "n2.conf"), *options)
    file = ssh_folder(lab) / "kh_authority"
    file.write_text(f"@cert-authority certified {authority}\n")
    lines = "Host certified\n HostName 10.77.0.12\n Port 2310\n HostKeyAlias certified\n"
    row = Row(f"{lines} UserKnownHostsFile {file}\n", "certified")
    assert both(lab, row) == (True, "certified True")


def test_a_changed_host_key_is_refused_by_both_clients(lab):
    ssh = ssh_folder(lab)
    other = (lab.folder / "keys" / "n2.pub").read_text()
    (ssh / "kh_wrong").write_text(f"n1,10.77.0.11 {other}")
    for extra in ("", BY_SSH):
        row = Row(
            f"Host n1\n UserKnownHostsFile {ssh}/kh_wrong\n StrictHostKeyChecking no\n{extra}"
        )
        write(lab, row)
        asked = in_head(lab, sys.executable, "-c", ASK, "n1,")
        assert asked.stdout.startswith("n1 unreachable: host key changed: ")


def test_a_long_folder_for_temporary_files_is_no_hindrance(lab):
    folder = lab.folder / ("x" * 93)
    folder.mkdir()
    row = Row(BY_SSH)
    assert both(lab, row, env=(f"TMPDIR={folder}",)) == (True, "n1 True")


@pytest.mark.parametrize("client", ["", BY_SSH])
def test_login_shell_tcsh_and_a_bashrc_that_prints_change_no_answer(lab, client):
    bashrc = lab.folder / "home" / ".bashrc"
    bashrc.write_text("echo hello from bashrc\n")
    try:
        assert both(lab, Row(client)) == (True, "n1 True")
        with login_shell(lab, "/usr/bin/tcsh"):
            assert both(lab, Row(client)) == (True, "n1 True")
    finally:
        bashrc.unlink()


@pytest.mark.parametrize("client", ["", BY_SSH])
def test_ipv6_addresses_of_nodes_and_of_jump_hosts(lab, client):
    lab.do("head", "ip", "address", "replace", "fd77::1/64", "dev", "bridge", "nodad")
    lab.do("node", "2", "ip", "address", "replace", "fd77::12/64", "dev", "eth0", "nodad")
    known = ssh_folder(lab) / "known_hosts"
    known.write_text(known.read_text().replace("n2,10.77.0.12 ", "n2,10.77.0.12,fd77::12 "))
    assert both(lab, Row(f"Host n3\n ProxyJump [fd77::12]:22\n{client}", "n3")) == (True, "n3 True")
    asked = in_head(lab, sys.executable, "-c", ASK, "[fd77::12]:22,")
    assert asked.stdout == "fd77::12 True\n"
