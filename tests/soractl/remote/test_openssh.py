import tempfile
from pathlib import Path

import pytest

from soractl.remote.nodes import Node
from soractl.remote.openssh import connection_words, socket_folder, why_refused
from soractl.remote.ssh_command import SshOptions

CHANGED = """\
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
Offending ED25519 key in /home/ana/.ssh/known_hosts:7
Host key verification failed.
"""
UNKNOWN = """\
No ED25519 host key is known for [n1]:2222 and you have requested strict checking.
Host key verification failed.
"""


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (CHANGED, "host key changed: another stands in /home/ana/.ssh/known_hosts:7"),
        (UNKNOWN, "unknown host key: No ED25519 host key is known for [n1]:2222"),
        (
            "WARNING: REVOKED HOST KEY DETECTED!\nHost key verification failed.\n",
            "host key revoked: Host key verification failed.",
        ),
        ("ana@n1: Permission denied (publickey).\n", "ana@n1: Permission denied (publickey)."),
        ("", "ssh ended without a word"),
    ],
)
def test_the_reason_of_a_refusal_is_one_line_whatever_ssh_prints(stderr, reason):
    assert why_refused(stderr) == reason


def test_sockets_lie_in_a_short_folder_of_ones_own(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 80)))
    with socket_folder() as folder:
        path = Path(folder)
        assert (path.stat().st_mode & 0o777, path.parent) == (0o700, Path("/tmp"))
    assert not path.exists()


def test_jump_hosts_are_spelled_out_only_where_the_cluster_names_keys_or_known_hosts():
    node, answer = Node("n1"), {"proxyjump": ["outer"]}
    plain = connection_words(node, answer, SshOptions())
    assert not [word for word in plain if "ProxyCommand" in word]
    keys = connection_words(node, answer, SshOptions(identity_file="/key"))
    assert keys[-1] == "ProxyCommand=ssh -i /key -o BatchMode=yes -W '[%h]:%p' -- outer"
