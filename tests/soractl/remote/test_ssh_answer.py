import os
import pwd
import socket
from pathlib import Path

import pytest

from soractl.remote.nodes import Node
from soractl.remote.ssh_answer import Route, jump_hosts, last_words, parse, route
from soractl.remote.ssh_command import NotServed, SshOptions

HOME = pwd.getpwuid(os.getuid()).pw_dir
USUAL = {
    "hostname": ["default"],
    "port": ["22"],
    "user": ["ana"],
    "identityfile": ["~/.ssh/id_ed25519"],
    "ciphers": ["aes128-ctr"],
}


def routed(**changes):
    answer = {**USUAL, "hostname": ["10.77.0.11"], **changes}
    return route(Node("n1"), answer, USUAL, SshOptions())


def test_lines_become_values_by_keyword_in_their_order():
    assert parse("HostName n1\nidentityfile ~/a b\nidentityfile ~/c\n") == {
        "hostname": ["n1"],
        "identityfile": ["~/a b", "~/c"],
    }


def test_the_line_that_says_why_comes_before_sshs_summary():
    stderr = "ssh: connect to host n1 port 22: No route\r\nkex_exchange_identification: closed\n"
    assert last_words(stderr) == "connect to host n1 port 22: No route"
    assert last_words("/c: terminating, 1 bad option\n") == "/c: terminating, 1 bad option"
    assert last_words("") == ""


def test_an_answer_without_anything_special_is_a_route():
    assert routed() == Route(
        "10.77.0.11",
        22,
        "ana",
        "10.77.0.11",
        identity_files=(Path(f"{HOME}/.ssh/id_ed25519"),),
    )


def test_an_answer_is_taken_with_all_that_paramiko_can_do(monkeypatch):
    monkeypatch.setenv("KEYS", "/keys")
    found = routed(
        port=["2222"],
        addressfamily=["inet6"],
        identityfile=["${KEYS}/%r-%h", "none"],
        identitiesonly=["yes"],
        identityagent=["none"],
        userknownhostsfile=["/k1 /k2"],
        globalknownhostsfile=["none"],
        stricthostkeychecking=["no"],
        connecttimeout=["3"],
        proxycommand=["nc %h %p"],
        proxyjump=["bob@outer:2200,[fd00::1]"],
    )
    assert found == Route(
        host="10.77.0.11",
        port=2222,
        user="ana",
        key_name="[10.77.0.11]:2222",
        identity_files=(Path("/keys/ana-10.77.0.11"),),
        configured_keys=True,
        identities_only=True,
        use_agent=False,
        known_hosts_files=(Path("/k1"), Path("/k2")),
        accept_new_host_keys=True,
        family=socket.AF_INET6,
        connect_timeout_s=3.0,
        proxy_command="nc 10.77.0.11 2222",
        jumps=(Node("outer", user="bob", port=2200), Node("fd00::1")),
    )
    assert routed(hostkeyalias=["n1"], port=["2222"]).key_name == "n1"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ciphers": ["chacha20"]}, "ciphers chacha20"),
        ({"pkcs11provider": ["/lib.so"]}, "pkcs11provider /lib.so"),
        ({"identityagent": ["/agent"]}, "identityagent /agent"),
        ({"identityfile": ["~/%k"]}, "%k in "),
        ({"identityfile": ["${NO_SUCH}/a"]}, "no variable NO_SUCH"),
        ({"proxycommand": ["nc %L"]}, "%L in nc %L"),
        ({"userknownhostsfile": ["/a b"]}, "names with blanks in /a b"),
        ({"proxyjump": ["a:b:c"]}, "proxyjump a:b:c"),
    ],
)
def test_what_paramiko_does_otherwise_is_left_to_ssh(monkeypatch, changes, reason):
    monkeypatch.delenv("NO_SUCH", raising=False)
    with pytest.raises(NotServed) as left:
        routed(**changes)
    assert reason in str(left.value)


def test_the_file_name_with_a_blank_that_is_there_is_not_taken_for_two(tmp_path):
    (tmp_path / "k /tmp").mkdir(parents=True)
    with pytest.raises(NotServed, match="names with blanks"):
        routed(userknownhostsfile=[f"{tmp_path}/k /tmp"])


@pytest.mark.parametrize("value", ["none", "NONE"])
def test_no_jump_host_is_none(value):
    assert jump_hosts({"proxyjump": [value]}) == jump_hosts({}) == ()
