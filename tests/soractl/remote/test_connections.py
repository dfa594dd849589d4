import gc
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest

from soractl.errors import Fault, FaultKind
from soractl.remote import connections, reaching
from soractl.remote.connections import Connections, SshOptions
from soractl.remote.nodes import Node, this_machine
from soractl.remote.requests import Request
from soractl.remote.ssh_command import SshFailure

HERE = this_machine()


def test_the_local_node_needs_no_ssh():
    with Connections() as remote:
        result = remote(HERE, Request(("sh", "-c", "cat; echo wrong >&2; exit 3"), "input\n"), 5)
    assert (result.stdout, result.stderr, result.exit_code) == ("input\n", "wrong\n", 3)


def test_starting_without_ssh_does_not_load_paramiko():
    loaded = "soractl.remote.connections, soractl.cluster.gpus, soractl.processes.scan"
    code = f"import sys, {loaded}; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'paramiko'" not in done.stdout


SRUN = """#!/bin/sh
echo "$*" >> "$HERE/steps"
while [ "$1" != /bin/sh ]; do shift; done
exec "$@"
"""
SQUEUE = """#!/bin/sh
echo asked >> "$HERE/asked"
exec cat "$HERE/jobs"
"""


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """srun and squeue as scripts: job 12 of ours runs on n1 and n2; no ssh is there."""
    for name, code in {"srun": SRUN, "squeue": SQUEUE}.items():
        (tmp_path / name).write_text(code)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "jobs").write_text("12|n[1-2]\n")
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_a_step_of_a_job_of_ours_takes_the_place_of_a_login(steps):
    with Connections(SshOptions(client="srun")) as remote:
        answers = [remote(Node(name), Request(("cat",), "a\n"), 10) for name in ("n1", "n2", "n2")]
        dialogue = remote.dialogue(Node("n1"), ("cat",), 10)
        assert dialogue.ask(b"ready", 10) == b"ready"
    assert [answer.stdout for answer in answers] == ["a\n"] * 3
    step = "--overlap --nodes=1 --ntasks=1 --cpu-bind=none --quiet"
    step += " --export=HOME,USER,LOGNAME,PATH --jobid=12 --nodelist="
    used = (steps / "steps").read_text().splitlines()
    assert [line.partition(" /bin/sh")[0] for line in used] == [
        f"{step}{name}" for name in ("n1", "n2", "n2", "n1")
    ]
    assert (steps / "asked").read_text() == "asked\n"


def test_a_node_without_a_job_of_ours_is_not_reached(steps):
    with Connections(SshOptions(client="srun")) as remote:
        answers = [remote(Node(name), Request(("true",)), 10) for name in ("n3", "n4", "n3")]
    fault = Fault(
        FaultKind.UNREACHABLE,
        "no job of yours runs there, and client = srun reaches no other node",
    )
    assert [answer.fault for answer in answers] == [fault] * 3
    assert (steps / "asked").read_text() == "asked\n"


def test_a_queue_that_refuses_is_asked_once_for_all_nodes(steps):
    (steps / "jobs").unlink()
    with Connections(SshOptions(client="srun")) as remote:
        answers = [remote(Node(name), Request(("true",)), 10) for name in ("n1", "n2")]
    assert [answer.fault.kind for answer in answers] == [FaultKind.UNREACHABLE] * 2
    assert all("No such file" in answer.fault.message for answer in answers)
    assert (steps / "asked").read_text() == "asked\n"


def test_the_next_job_on_a_node_is_found_and_a_job_that_ends_with_255_is_no_lost_connection(
    steps, monkeypatch
):
    monkeypatch.setattr(reaching, "JOBS_AGE_S", 0.0)
    with Connections(SshOptions(client="srun")) as remote:
        for job in (12, 13):
            (steps / "jobs").write_text(f"{job}|n[1-2]\n")
            answer = remote(Node("n1"), Request(("sh", "-c", "exit 255")), 10)
            assert (answer.exit_code, answer.fault) == (255, None)
    used = (steps / "steps").read_text().splitlines()
    jobs = [word for line in used for word in line.split() if word.startswith("--jobid=")]
    assert jobs == ["--jobid=12", "--jobid=13"]


def test_what_srun_says_is_why_a_node_is_not_reached(steps):
    (steps / "srun").write_text("#!/bin/sh\necho 'srun: error: Access denied' >&2\nexit 1\n")
    with Connections(SshOptions(client="srun")) as remote:
        answer = remote(Node("n1"), Request(("true",)), 10)
    assert answer.fault.kind is FaultKind.UNREACHABLE
    assert "Access denied" in answer.fault.message


@pytest.mark.ssh
@pytest.mark.parametrize("client", ["auto", "openssh"])
def test_programs_are_kept_also_where_a_connection_carries_but_one(start_sshd, client):
    server = start_sshd("127.0.77.1", "MaxSessions 1")
    with Connections(replace(server.options, client=client)) as remote:
        kept = [remote.dialogue(server.node, ("cat",), 20) for _ in range(3)]
        assert [one.ask(b"%d" % i, 10) for i, one in enumerate(kept)] == [b"0", b"1", b"2"]
        assert remote(server.node, Request(("echo", "and", "asked")), 20).stdout == "and asked\n"


@pytest.mark.ssh
@pytest.mark.parametrize("client", ["auto", "openssh"])
def test_a_program_that_ends_at_once_is_a_failure_of_its_node(start_sshd, client):
    server = start_sshd("127.0.77.1", "ForceCommand true")
    remote = Connections(replace(server.options, client=client))
    with remote, pytest.raises(SshFailure, match=r"has ended|connection lost"):
        remote.dialogue(server.node, ("cat",), 10)


@pytest.mark.ssh
@pytest.mark.parametrize("client", ["auto", "openssh"])
def test_programs_that_end_at_once_leave_no_connection_and_get_a_second_one_once(
    start_sshd, client, monkeypatch
):
    server = start_sshd("127.0.77.1", "ForceCommand true")
    opened, connect = [], reaching.Clients.connect

    def noted(*words):
        opened.append(connect(*words))
        return opened[-1]

    monkeypatch.setattr(reaching.Clients, "connect", noted)
    with Connections(replace(server.options, client=client)) as remote:
        monkeypatch.setattr(connections, "AGAIN_S", 600.0)
        for _ in range(2):
            with pytest.raises(SshFailure, match=r"has ended|connection lost"):
                remote.dialogue(server.node, ("cat",), 20)
            assert [one.alive for one in opened] == [True, False]


def test_a_program_that_was_closed_is_kept_no_longer():
    with Connections() as remote:
        closed = remote.dialogue(HERE, ("cat",), 5)
        closed.close()
        gone = weakref.ref(closed)
        del closed
        remote.dialogue(HERE, ("cat",), 5)
        gc.collect()
        assert gone() is None


@pytest.mark.ssh
@pytest.mark.parametrize("client", ["auto", "openssh"])
def test_a_second_connection_that_comes_after_the_end_is_closed(start_sshd, client, monkeypatch):
    server = start_sshd("127.0.77.1", "ForceCommand true")
    opened, connect = [], reaching.Clients.connect

    def closed_at_the_second(*words):
        opened.append(connect(*words))
        if len(opened) == 2:
            remote.close()
        return opened[-1]

    monkeypatch.setattr(reaching.Clients, "connect", closed_at_the_second)
    remote = Connections(replace(server.options, client=client))
    with pytest.raises(SshFailure):
        remote.dialogue(server.node, ("cat",), 20)
    assert [one.alive for one in opened] == [False, False]
