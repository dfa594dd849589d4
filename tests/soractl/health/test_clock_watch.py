"""Real nodes by ssh: the delays are a relay's, the lies a stand-in's for python3."""

import dataclasses
import os
import sys
import threading
from pathlib import Path

import pytest

from soractl.cluster.settings import ClockPolicy
from soractl.health.clock_watch import Clocks, watch_clocks
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node, this_machine

HERE = Path(__file__).parent
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


def look(remote, node, clocks=None):
    [row] = (clocks or Clocks(remote, ClockPolicy())).look([node], 20)
    return row


def test_this_machine_needs_no_ssh_and_is_in_time():
    with Connections() as remote:
        row = look(remote, this_machine())
    assert row.fault is None
    assert abs(row.offset.value) <= row.offset.bound
    assert row.verdict.level == "good"


@pytest.mark.ssh
@pytest.mark.parametrize("client", ["paramiko", "openssh"])
def test_without_delay_the_bound_is_at_most_half_a_millisecond(sshd, client):
    with Connections(sshd.with_options(client=client)) as remote:
        clocks = Clocks(remote, ClockPolicy())
        rows = [look(remote, sshd.node, clocks) for _ in range(20)]
    assert [abs(row.offset.value) <= row.offset.bound for row in rows] == [True] * 20
    # The least of them, since other work on this machine may delay any single one.
    assert min(row.offset.bound for row in rows) <= 0.0005


DELAYS = {
    "jitter": (0, 20, 0, 20),
    "a slow way there": (10, 5, 0, 0),
    "a slow way back": (0, 0, 10, 5),
    "unequal jitter": (0, 20, 10, 10),
}


def through(server, tmp_path, delays):
    """The server's options with a relay between."""
    words = " ".join(map(str, (sys.executable, HERE / "relay.py", "%h", "%p", *delays)))
    config = tmp_path / "-".join(map(str, delays))
    config.write_text(f"ProxyCommand {words}\n")
    return dataclasses.replace(server.options, config_file=str(config))


@pytest.mark.ssh
@pytest.mark.slow
@pytest.mark.parametrize("name", DELAYS)
def test_the_bound_covers_the_truth_in_250_probes_through_a_relay(sshd, tmp_path, name):
    options = through(sshd, tmp_path, DELAYS[name])
    rows = []

    def many():
        with Connections(options) as remote:
            clocks = Clocks(remote, ClockPolicy())
            rows.extend(look(remote, sshd.node, clocks) for _ in range(25))

    threads = [threading.Thread(target=many) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows) == 250
    assert [row.fault for row in rows if row.fault] == []
    assert [row for row in rows if abs(row.offset.value) > row.offset.bound] == []
    assert [row.steps for row in rows if row.steps] == []
    if 0 in DELAYS[name][:1] and DELAYS[name][1] == 0:
        # All of the delay is on one way: the error comes near to the bound, which is no waste.
        assert max(abs(row.offset.value) / row.offset.bound for row in rows) > 0.8


@pytest.fixture
def liar(start_sshd, tmp_path):
    """A node whose python3 is off by what stands in `liar.file`."""
    file = tmp_path / "seconds"
    file.write_text("0")
    python3 = tmp_path / "bin" / "python3"
    python3.parent.mkdir()
    python3.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "liar.py"} {file} "$@"\n')
    python3.chmod(0o755)
    server = start_sshd("127.0.77.3", f"SetEnv PATH={python3.parent}:{SYSTEM_PATH} SHLVL=5")
    return server, file


@pytest.mark.ssh
@pytest.mark.parametrize("off_s", [0.35, -0.35, 3600.0])
def test_a_node_whose_clock_lies_is_bad_with_the_right_sign_and_size(liar, off_s):
    server, file = liar
    file.write_text(str(off_s))
    with Connections(server.options) as remote:
        row = look(remote, server.node)
    assert row.verdict.level == "BAD"
    assert abs(row.offset.value - off_s) <= row.offset.bound
    way = "ahead of" if off_s > 0 else "behind"
    assert row.verdict.reasons[0].endswith(f" ms {way} this machine")


@pytest.mark.ssh
def test_steps_of_10_ms_are_seen_at_the_next_look_and_only_there(liar):
    server, file = liar
    found = []
    with Connections(server.options) as remote:
        clocks = Clocks(remote, ClockPolicy())
        for number in range(21):
            file.write_text(str(-0.010 * (number // 3)))
            found.append(look(remote, server.node, clocks))
    assert [len(row.steps) for row in found] == [number // 3 for number in range(21)]
    steps = found[-1].steps
    assert [abs(step.size.value + 0.010) <= step.size.bound + 1e-6 for step in steps] == [True] * 6
    assert found[-1].verdict.level == "BAD"


@pytest.mark.ssh
@pytest.mark.slow
def test_no_step_is_invented_in_1000_quiet_looks(sshd):
    with Connections(sshd.options) as remote:
        clocks = Clocks(remote, ClockPolicy())
        rows = [look(remote, sshd.node, clocks) for _ in range(1000)]
    assert rows[-1].steps == ()


@pytest.mark.ssh
def test_a_node_without_python3_has_an_offset_and_no_small_steps(start_sshd, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "bash", "date", "sort", "paste", "timeout", "printf", "cat"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    server = start_sshd("127.0.77.4", f"SetEnv PATH={tools} SHLVL=5")
    with Connections(server.options) as remote:
        clocks = Clocks(remote, ClockPolicy())
        rows = [look(remote, server.node, clocks) for _ in range(10)]
    assert [row.fault for row in rows] == [None] * 10
    assert not rows[-1].fine
    assert rows[-1].steps == ()
    assert [abs(row.offset.value) <= row.offset.bound for row in rows] == [True] * 10


@pytest.mark.ssh
def test_a_lost_node_is_a_row_and_comes_back(start_sshd):
    server = start_sshd("127.0.77.5")
    other = Node("127.0.77.5", port=1)
    with Connections(server.options) as remote:
        clocks = Clocks(remote, ClockPolicy())
        first = clocks.look([server.node, other], 10)
        clocks._dialogues[server.node].close()
        second, third = clocks.look([server.node], 10), clocks.look([server.node], 10)
    assert [row.fault is None for row in first] == [True, False]
    assert [str(row.fault) for row in second] != ["None"]
    assert [row.fault for row in third] == [None]


@pytest.mark.ssh
def test_a_round_over_a_hostfile_has_the_policy_of_its_cluster(sshd, tmp_path):
    hosts = tmp_path / "hosts.txt"
    hosts.write_text(f"{sshd.host}:{sshd.port}\n")
    options = sshd.options
    hosts.with_suffix(".toml").write_text(
        f'[ssh]\nconfig_file = "{options.config_file}"\nidentity_file = "{options.identity_file}"\n'
        f'known_hosts_file = "{options.known_hosts_file}"\n[clock]\nmax_offset_ms = 0.0001\n'
    )
    [found] = watch_clocks(str(hosts), None, deadline_s=20, environ=os.environ)
    assert found.policy == ClockPolicy(max_offset_ms=0.0001)
    assert [row.verdict.level for row in found.rows] == ["unknown"]
    assert found.exit_code == 0
