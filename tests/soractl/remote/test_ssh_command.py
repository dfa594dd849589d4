import pytest

from soractl.remote.nodes import Node
from soractl.remote.ssh_command import (
    SshOptions,
    arguments,
    as_options,
    connect_timeout_s,
    connecting,
    environment_words,
    jump_arguments,
    variables_sent,
)

PLAIN = as_options({"RemoteCommand": "none", "RequestTTY": "no", "ClearAllForwardings": "yes"})


def test_a_node_without_options_is_left_to_the_users_configuration():
    assert arguments(Node("n1"), SshOptions()) == ["ssh", *PLAIN]


def test_the_clusters_options_are_laid_over_it_and_the_nodes_own_come_first():
    options = SshOptions(
        user="ana",
        port=22,
        identity_file="/keys/100%",
        config_file="/c",
        known_hosts_file="/known hosts",
        accept_new_host_keys=True,
    )
    assert arguments(Node("n1", user="bob", port=2222), options) == [
        *("ssh", "-F", "/c", "-i", "/keys/100%%"),
        *as_options({"UserKnownHostsFile": '"/known hosts"'}),
        *as_options({"StrictHostKeyChecking": "accept-new"}),
        *PLAIN,
        *("-l", "bob", "-p", "2222"),
    ]


def test_a_jump_host_gets_the_clusters_key_through_a_command_within_a_command():
    jumps = (Node("outer", user="ana"), Node("inner", port=2222))
    outer = "ssh -i /key -o BatchMode=yes -l ana -W '[%h]:%p' -- outer"
    quoted = "'ProxyCommand=" + outer.replace("%", "%%").replace("'", "'\"'\"'") + "'"
    inner = f"ssh -i /key -o BatchMode=yes -o {quoted} -p 2222 -W '[%h]:%p' -- inner"
    options = SshOptions(identity_file="/key")
    assert jump_arguments(jumps, options) == ["-o", f"ProxyCommand={inner}"]
    assert jump_arguments((), options) == []


@pytest.mark.parametrize(
    ("checking", "accepts", "expected"),
    [
        ("ask", False, "yes"),
        ("yes", False, "yes"),
        ("no", False, "accept-new"),
        ("accept-new", False, "accept-new"),
        ("ask", True, "accept-new"),
    ],
)
def test_no_connection_takes_a_changed_host_key_or_asks_anybody(checking, accepts, expected):
    answer = {"stricthostkeychecking": [checking]}
    assert connecting(answer, SshOptions(accept_new_host_keys=accepts)) == as_options(
        {
            "BatchMode": "yes",
            "UpdateHostKeys": "no",
            "StrictHostKeyChecking": expected,
            "ConnectTimeout": 5,
        }
    )


def test_what_is_for_terminals_alone_is_undone_where_this_ssh_knows_it():
    answer = {"sessiontype": ["none"], "stdinnull": ["no"]}
    assert connecting(answer, SshOptions())[-2:] == ["-o", "sessiontype=default"]


@pytest.mark.parametrize(
    ("configured", "own", "seconds"),
    [("none", None, 5), ("0", None, 5), ("12", None, 12), ("12", 0.5, 0.5), (None, None, 5)],
)
def test_the_clusters_limit_comes_before_the_configurations(configured, own, seconds):
    answer = {} if configured is None else {"connecttimeout": [configured]}
    assert connect_timeout_s(answer, SshOptions(connect_timeout_s=own)) == seconds


def test_what_belongs_to_a_terminal_stays_here_and_the_rest_goes_along(monkeypatch):
    for name in ("LC_CTYPE", "LANGUAGE", "XMODIFIERS", "ODD_A", "OTHER"):
        monkeypatch.setenv(name, "x")
    answer = {"sendenv": ["LANG", "LC_*", "LANGUAGE", "XMODIFIERS", "ODD_*"]}
    assert variables_sent(answer) == ["ODD_A"]
    assert environment_words(answer) == ["-o", "SendEnv=ODD_A"]
