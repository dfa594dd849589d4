import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from soractl.cluster.gpus import read_gpus
from soractl.errors import FaultKind
from soractl.remote.connections import Connections
from soractl.remote.fan_out import run_everywhere
from soractl.remote.nodes import Node
from soractl.remote.requests import Request
from tests.soractl.remote.living import assert_none_sleep, commands

pytestmark = pytest.mark.ssh
HELLO = Request(("echo", "hello"))
PLENTY_S = 60.0  # on a busy machine too


def ask(server, request=HELLO, *, deadline_s=PLENTY_S, **options):
    with Connections(server.with_options(**options)) as remote:
        return remote(server.node, request, deadline_s)


def test_paramiko_loads_no_reader_of_ssh_files():
    code = (
        "import sys; from soractl.remote.ssh import SshClient; SshClient(None, None)\n"
        "print('paramiko' in sys.modules, 'invoke' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True False\n"


@contextmanager
def listening(host, backlog=8):
    with socket.create_server((host, 0), backlog=backlog) as server:
        yield server.getsockname()[1]


def test_arguments_arrive_as_they_are(sshd):
    words = ["a b", "$HOME", "`id`", "it's", '"', "", "*", "\\", "k=(1, 2)", ";exit 3", "ü\n"]
    result = ask(sshd, Request(("printf", "%s\\0", *words)))
    assert result.stdout.split("\0") == [*words, ""]


def test_a_script_goes_over_stdin_and_its_exit_code_comes_back(sshd):
    result = ask(sshd, Request(("sh", "-s"), "echo out; echo err >&2; exit 7"))
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 7)


def test_a_command_that_does_not_read_its_input_is_no_fault(sshd):
    assert ask(sshd, Request(("true",), "x" * 5_000_000)).exit_code == 0


def test_much_input_and_much_output_at_once_do_not_lock_each_other(sshd):
    text = "0123456789" * 600_000
    result = ask(sshd, Request(("sh", "-c", "tee /dev/stderr"), text), deadline_s=20)
    assert (result.exit_code, result.stdout == text, result.stderr == text) == (0, True, True)


def test_of_100_mb_the_beginning_is_kept_and_the_rest_is_counted(sshd):
    command = "head -c 100000000 /dev/zero"
    result = ask(sshd, Request(("sh", "-c", command)), deadline_s=60)
    assert result.exit_code == 0
    assert len(result.stdout) + result.dropped_bytes == 100_000_000
    assert len(result.stdout) == 16 * 2**20


def test_a_connection_is_opened_once_and_kept(sshd):
    with Connections(sshd.options) as remote:
        script = Request(("sh", "-c", "echo $SSH_CONNECTION"))
        first, second = (remote(sshd.node, script, 5).stdout for _ in range(2))
    assert first == second != ""


def test_a_lost_connection_is_opened_again(sshd):
    with Connections(sshd.options) as remote:
        # sshd's process for this connection is the parent of `timeout`, which is ours.
        lost = remote(sshd.node, Request(("sh", "-s"), "kill -9 $(ps -o ppid= $PPID); sleep 1"), 5)
        again = remote(sshd.node, HELLO, PLENTY_S)
    assert lost.fault.kind is FaultKind.UNREACHABLE
    assert again.stdout == "hello\n"


def test_a_hanging_command_ends_at_the_deadline_here_and_on_the_node(sshd):
    result = ask(sshd, Request(("sh", "-c", "echo begun; sleep 86413")), deadline_s=3)
    assert (result.stdout, str(result.fault)) == ("begun\n", "deadline: no end within 3 s")
    assert result.elapsed_s < 10
    assert_none_sleep("86413")


def test_a_command_that_ignores_term_is_killed_on_the_node(sshd):
    script = "trap '' TERM; sleep 86414; sleep 86415"
    result = ask(sshd, Request(("sh", "-c", script)), deadline_s=3)
    assert result.fault.kind is FaultKind.DEADLINE
    assert result.elapsed_s < 10
    assert_none_sleep("86414", "86415")


def test_a_closed_port_is_the_reason_why_a_node_is_unreachable(sshd):
    with listening("127.0.77.9") as port:
        pass
    with Connections(sshd.options) as remote:
        result = remote(Node("127.0.77.9", port=port), HELLO, PLENTY_S)
    assert str(result.fault) == f"unreachable: 127.0.77.9:{port}: Connection refused"


def test_a_dead_host_costs_the_connect_timeout(sshd):
    # With a full backlog the kernel drops what comes, as a host does that is off.
    with listening("127.0.77.9", backlog=0) as port:
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.77.9", port))
        with Connections(sshd.with_options(connect_timeout_s=0.5)) as remote:
            result = remote(Node("127.0.77.9", port=port), HELLO, PLENTY_S)
        for filler in fillers:
            filler.close()
    assert str(result.fault) == f"unreachable: no answer from 127.0.77.9:{port} within 0.5 s"
    assert 0.5 <= result.elapsed_s < 5


def test_a_host_that_takes_connections_and_never_speaks_costs_the_connect_timeout(sshd):
    with (
        listening("127.0.77.9") as port,
        Connections(sshd.with_options(connect_timeout_s=0.4)) as remote,
    ):
        result = remote(Node("127.0.77.9", port=port), HELLO, PLENTY_S)
    assert str(result.fault) == (
        f"unreachable: 127.0.77.9:{port} takes the connection and does not speak ssh within 0.4 s"
    )
    assert 0.4 <= result.elapsed_s < 5


def test_a_host_that_hangs_at_authentication_costs_the_deadline(start_sshd):
    server = start_sshd(
        "127.0.77.2", "AuthorizedKeysCommand /bin/sleep 60", "AuthorizedKeysCommandUser root"
    )
    (server.folder / "authorized_keys").unlink()
    result = ask(server, deadline_s=4)
    assert str(result.fault) == (
        f"unreachable: {server.host}:{server.port} hangs at authentication, given up after 4 s"
    )
    assert 4 <= result.elapsed_s < 10


def test_a_name_that_does_not_exist_is_the_reason_why_a_node_is_unreachable(sshd):
    with Connections(sshd.options) as remote:
        result = remote(Node("no-such-host.invalid"), HELLO, PLENTY_S)
    assert str(result.fault).startswith("unreachable: no-such-host.invalid: ")


def test_an_unknown_host_key_is_refused_with_its_fingerprint(sshd, tmp_path):
    result = ask(sshd, known_hosts_file=str(tmp_path / "known_hosts"))
    name = re.escape(f"[{sshd.host}]:{sshd.port}")
    assert re.fullmatch(
        rf"unreachable: unknown host key: {name} shows ssh-ed25519 SHA256:[A-Za-z0-9+/]{{43}},"
        r" which is not in known_hosts",
        str(result.fault),
    )
    assert not (tmp_path / "known_hosts").exists()


def test_accept_new_takes_a_key_once_and_then_insists_on_it(sshd, make_key, tmp_path):
    file = tmp_path / "folder" / "known_hosts"
    options = {"known_hosts_file": str(file), "accept_new_host_keys": True}
    assert ask(sshd, **options).ok
    assert file.read_text() == (sshd.folder / "known_hosts").read_text()
    other = make_key(tmp_path / "other")
    file.write_text(f"[{sshd.host}]:{sshd.port} {other}\n")
    result = ask(sshd, **options)
    assert str(result.fault).startswith("unreachable: host key changed: ")
    assert str(result.fault).endswith(f", another stands in {file}:1")


def test_a_revoked_host_key_is_refused(sshd, tmp_path):
    file = tmp_path / "known_hosts"
    file.write_text(f"@revoked {(sshd.folder / 'known_hosts').read_text()}")
    result = ask(sshd, known_hosts_file=str(file), accept_new_host_keys=True)
    assert str(result.fault).startswith("unreachable: host key revoked: ")


def test_hashed_names_and_other_kinds_of_keys_on_record_are_understood(
    start_sshd, make_key, tmp_path
):
    rsa = make_key(tmp_path / "rsa_host_key", kind="rsa")
    server = start_sshd("127.0.77.3", f"HostKey {tmp_path}/rsa_host_key")
    file = tmp_path / "known_hosts"
    file.write_text(f"[{server.host}]:{server.port} {rsa}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
    assert file.read_text().startswith("|1|")
    # The server has an ed25519 key too, which is preferred where none is on record.
    assert ask(server, known_hosts_file=str(file)).ok


def test_2000_known_hosts_are_read_once(sshd, tmp_path):
    file = tmp_path / "known_hosts"
    key = (sshd.folder / "known_hosts").read_text()
    blob = key.split()[2]
    lines = [f"node-{i:04d},10.0.{i // 256}.{i % 256} ssh-ed25519 {blob}\n" for i in range(2000)]
    file.write_text("".join(lines) + key)
    with Connections(sshd.with_options(known_hosts_file=str(file))) as remote:
        assert remote(sshd.node, HELLO, PLENTY_S).ok
        file.unlink()
        other_name_for_it = Node(sshd.host, user=None, port=sshd.port, slots=8)
        assert remote(other_name_for_it, HELLO, PLENTY_S).ok


def test_a_wrong_key_is_named_with_what_the_server_takes(sshd, make_key, tmp_path):
    make_key(tmp_path / "stranger")
    result = ask(sshd, identity_file=str(tmp_path / "stranger"))
    user = Path("~").expanduser().owner()
    assert str(result.fault) == (
        f"unreachable: authentication failed for {user}: tried {tmp_path}/stranger"
    )


def test_without_any_key_the_fault_says_that_none_was_tried(sshd, tmp_path):
    result = ask(sshd, identity_file=str(tmp_path / "nothing"))
    assert str(result.fault).endswith(": tried no key: no agent, and no identity file is there")


def test_a_key_that_is_no_key_and_one_with_a_passphrase_are_named(sshd, make_key, tmp_path):
    (tmp_path / "garbage").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n")
    (tmp_path / "garbage").chmod(0o600)
    make_key(tmp_path / "locked", passphrase="secret")
    (tmp_path / "config").write_text(
        f"Host *\n IdentityFile {tmp_path}/garbage\n IdentityFile {tmp_path}/locked\n"
    )
    result = ask(sshd, identity_file=None, config_file=str(tmp_path / "config"))
    assert f"{tmp_path}/garbage (not a usable private key" in str(result.fault)
    assert f"{tmp_path}/locked (encrypted: add it to ssh-agent)" in str(result.fault)


@pytest.fixture
def agent(tmp_path, monkeypatch):
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    while not path.exists():
        time.sleep(0.01)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    yield
    process.terminate()
    process.wait()


def test_keys_of_the_agent_are_used(sshd, agent, tmp_path):
    subprocess.run(["ssh-add", "-q", sshd.folder / "id_ed25519"], check=True)
    assert ask(sshd, identity_file=str(tmp_path / "nothing")).ok


def test_configured_keys_come_before_the_other_keys_of_the_agent(sshd, agent, make_key, tmp_path):
    for i in range(7):  # more than a server lets one try
        make_key(tmp_path / f"other{i}")
        subprocess.run(["ssh-add", "-q", tmp_path / f"other{i}"], check=True)
    subprocess.run(["ssh-add", "-q", sshd.folder / "id_ed25519"], check=True)
    (tmp_path / "key.pub").write_text((sshd.folder / "id_ed25519.pub").read_text())
    config = tmp_path / "config"
    config.touch()
    without = ask(sshd, identity_file=None, config_file=str(config))
    assert "tried agent key other0" in str(without.fault)
    assert "then the server hung up" in str(without.fault)
    for lines in ("", " IdentitiesOnly yes\n"):
        config.write_text(f"Host *\n IdentityFile {tmp_path}/key\n{lines}")
        assert ask(sshd, identity_file=None, config_file=str(config)).ok


def test_the_ssh_configuration_names_host_user_port_and_key(sshd, tmp_path):
    (tmp_path / "included").write_text(
        f"Host gpu-*\n HostName {sshd.host}\n Port {sshd.port}\n"
        f" IdentityFile {sshd.folder}/id_ed25519\n"
    )
    (tmp_path / "config").write_text(f"Include {tmp_path}/incl*\nHost other\n Port 1\n")
    with Connections(
        sshd.with_options(identity_file=None, config_file=str(tmp_path / "config"))
    ) as remote:
        assert remote(Node("gpu-1"), HELLO, PLENTY_S).stdout == "hello\n"


def test_a_node_behind_two_jump_hosts_is_reached_through_them(start_sshd, sshd, tmp_path):
    jumps = [start_sshd("127.0.77.4"), start_sshd("127.0.77.5")]
    for jump in jumps:
        key = (sshd.folder / "id_ed25519.pub").read_text()
        (jump.folder / "authorized_keys").write_text(key)
    known = "".join((s.folder / "known_hosts").read_text() for s in (sshd, *jumps))
    (tmp_path / "known_hosts").write_text(known)
    through = ",".join(f"{jump.host}:{jump.port}" for jump in jumps)
    (tmp_path / "config").write_text(f"Host {sshd.host}\n ProxyJump {through}\n")
    result = ask(
        sshd,
        Request(("sh", "-c", "echo $SSH_CLIENT")),
        config_file=str(tmp_path / "config"),
        known_hosts_file=str(tmp_path / "known_hosts"),
    )
    assert (result.fault, result.stdout != "") == (None, True)
    logs = [(jump.folder / "log").read_text() for jump in jumps]
    assert ["Accepted publickey" in log for log in logs] == [True, True]
    # one that goes on could write to a jump host that is closed, and fail with a traceback
    assert not [t for t in threading.enumerate() if type(t).__name__ == "Transport"]


def test_all_nodes_behind_a_jump_host_share_one_connection_to_it(start_sshd, sshd, tmp_path):
    jump = start_sshd("127.0.77.6")
    key = (sshd.folder / "id_ed25519.pub").read_text()
    (jump.folder / "authorized_keys").write_text(key)
    host_key = (sshd.folder / "known_hosts").read_text().split(" ", 1)[1]
    (tmp_path / "known_hosts").write_text(
        f"any-node {host_key}" + (jump.folder / "known_hosts").read_text()
    )
    (tmp_path / "config").write_text(
        f"Host node-*\n HostName {sshd.host}\n Port {sshd.port}\n HostKeyAlias any-node\n"
        f" ProxyJump {jump.host}:{jump.port}\n"
    )
    options = sshd.with_options(
        config_file=str(tmp_path / "config"), known_hosts_file=str(tmp_path / "known_hosts")
    )
    nodes = [Node(f"node-{i}") for i in range(4)]
    with Connections(options) as remote:
        results = run_everywhere(nodes, lambda node: HELLO, remote, deadline_s=PLENTY_S)
    assert [result.fault for result in results] == [None] * 4
    assert (jump.folder / "log").read_text().count("Accepted publickey") == 1


def test_a_dead_jump_host_is_named(sshd, tmp_path):
    with listening("127.0.77.9") as port:
        pass
    (tmp_path / "config").write_text(
        f"Host {sshd.host}\n ProxyJump bastion\nHost bastion\n HostName 127.0.77.9\n Port {port}\n"
    )
    result = ask(sshd, config_file=str(tmp_path / "config"))
    assert str(result.fault) == (
        f"unreachable: jump host bastion: 127.0.77.9:{port}: Connection refused"
    )


def test_a_proxy_command_carries_the_connection(sshd, tmp_path):
    config = tmp_path / "config"
    pipe = f"exec 3<>/dev/tcp/%h/{sshd.port}; cat <&3 & cat >&3"
    config.write_text(f"Host {sshd.host}\n ProxyCommand bash -c '{pipe}'\n")
    assert ask(sshd, config_file=str(config)).stdout == "hello\n"
    config.write_text(f"Host {sshd.host}\n ProxyCommand no-such-program x\n")
    assert ask(sshd, config_file=str(config)).reason == (
        "unreachable: no-such-program x ends the connection before it speaks ssh"
    )


def test_a_configuration_that_makes_no_sense_is_the_nodes_row_in_the_words_of_ssh(sshd, tmp_path):
    config = tmp_path / "config"
    for text, message in (
        ("Port many\n", f"{config} line 1: Bad port 'many'."),
        ("nonsense\n", f'{config} line 1: no argument after keyword "nonsense"'),
        ("Match exec\n", f"{config} line 1: Bad Match condition"),
    ):
        config.write_text(text)
        assert str(ask(sshd, config_file=str(config)).fault) == f"unreachable: {message}"


def test_bad_nodes_cost_only_their_own_rows(start_cluster):
    cluster = start_cluster(6)
    cluster.do("lose", "2")
    cluster.do("freeze", "3")
    (cluster.folder / "gpus" / "n4").mkdir(parents=True)
    (cluster.folder / "gpus" / "n4" / "delay").write_text("600")
    options = replace(cluster.options, connect_timeout_s=3)
    seen = []
    with cluster.network(), Connections(options) as remote:
        rows = read_gpus(cluster.nodes, remote, deadline_s=10, on_result=seen.append)
    assert [
        (row.node.name, len(row.gpus), row.fault and str(row.fault), row.notes) for row in rows
    ] == [
        ("n1", 8, None, ()),
        ("n2", 0, "unreachable: no answer from 10.77.0.12:22 within 3 s", ()),
        (
            "n3",
            0,
            "unreachable: 10.77.0.13:22 takes the connection and does not speak ssh within 3 s",
            (),
        ),
        ("n4", 0, None, ("nvidia-smi: did not answer in time",)),
        ("n5", 8, None, ()),
        ("n6", 8, None, ()),
    ]
    assert {row.node.name for row in seen[:3]} == {"n1", "n5", "n6"}


def test_a_node_that_is_switched_off_is_noticed_on_a_warm_connection(start_cluster):
    cluster = start_cluster(2)
    options = replace(cluster.options, connect_timeout_s=3)

    def ask_all(remote):
        request = Request(("echo", "up"))
        return run_everywhere(cluster.nodes, lambda node: request, remote, deadline_s=10)

    with cluster.network(), Connections(options) as remote:
        assert [result.stdout for result in ask_all(remote)] == ["up\n", "up\n"]
        cluster.do("off", "2")
        results = ask_all(remote)
    assert [result.stdout for result in results] == ["up\n", ""]
    assert (
        results[1].fault.kind is FaultKind.UNREACHABLE
    )  # the words depend on what the kernel has taken down by then


def test_packets_lost_in_the_middle_of_a_command_end_at_the_deadline(start_cluster):
    cluster = start_cluster(1)
    with cluster.network(), Connections(cluster.options) as remote:
        assert remote(cluster.nodes[0], HELLO, PLENTY_S).ok
        cluster.do("lose", "1")
        result = remote(cluster.nodes[0], HELLO, 1)
    assert str(result.fault) == "deadline: no end within 1 s"
    assert 1 <= result.elapsed_s < 6


def test_a_cluster_leaves_nothing_behind(start_cluster):
    def traces():
        links = {path.name for path in Path("/sys/class/net").iterdir()}
        mounts = Path("/proc/mounts").read_text()
        return links, mounts, Path("~/.ssh").expanduser().exists()

    before = traces()
    cluster = start_cluster(2)
    assert cluster.do("node", "2", "hostname") == "n2\n"
    cluster.do("down")
    assert traces() == before
    assert not cluster.folder.exists()
    assert not any(str(cluster.folder) in " ".join(command) for command in commands())
