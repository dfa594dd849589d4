import os
import socket

import pytest
from typer.testing import CliRunner

from soractl.cli import app
from soractl.errors import SoractlError
from soractl.queue.hosts import Hosts, named


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """squeue and sinfo as scripts, which answer what the files `queue` and `nodes` hold."""
    for name, code in {
        "squeue": 'cat "$HERE/queue" 2> /dev/null || { echo Invalid job id >&2; exit 1; }',
        "sinfo": 'cat "$HERE/nodes" 2> /dev/null; exit 0',
    }.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\nHERE={tmp_path}\n{code}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def refusal(hosts):
    with pytest.raises(SoractlError) as caught:
        named(hosts)
    return caught.value.message, caught.value.exit_code


@pytest.mark.parametrize("hosts", [None, "nodes.txt", "n1,", "ana@n1:22,"])
def test_other_hosts_stay_as_they_are(hosts):
    assert named(hosts) == Hosts(hosts)


def test_a_job_stands_for_its_nodes(slurm):
    (slurm / "queue").write_text("12|RUNNING|N/A|n[1-3]|None\n")
    assert named("job:12") == Hosts("n[1-3],")


def test_a_job_without_nodes_says_how_it_is(slurm):
    assert refusal("job:12") == ("job 12 has no nodes: it is not in the queue", 6)
    (slurm / "queue").write_text("12|PENDING|N/A||Priority\n")
    assert refusal("job:12") == (
        "job 12 has no nodes: it is waiting as job 12: jobs of higher priority come first",
        6,
    )
    assert refusal("job:latest") == ("'latest' is no job's number", 2)


def test_a_partition_stands_for_its_nodes_and_says_which_are_drained(slurm):
    (slurm / "nodes").write_text("n1|idle|none\nn2|drained|soractl: gpu.xid (79)\nn3|down*|dead\n")
    assert named("partition:gpu") == Hosts(
        "n1,n2,n3,", ("n2 is drained: soractl: gpu.xid (79)", "n3 is down: dead")
    )


def test_a_partition_that_is_not_there_is_one_sentence(slurm):
    assert refusal("partition:gqu") == ("there is no partition gqu, or it has no nodes", 6)


@pytest.mark.parametrize(
    "words",
    ["gpus", "exec", "health", "clock", "doctor", "monitor", "env show", "env check", "env detect"],
)
def test_every_command_on_nodes_takes_a_job(words):
    command = ("--", "true") if words == "exec" else ()
    result = CliRunner().invoke(app, [*words.split(), "job:latest", *command])
    assert "'latest' is no job's number" in str(result.exception)


@pytest.mark.parametrize("words", ["gpus", "monitor --json", "env show", "env check", "env detect"])
def test_drained_nodes_of_a_partition_are_named_with_their_reason(slurm, words, monkeypatch):
    monkeypatch.chdir(slurm)
    here = socket.gethostname()
    (slurm / "nodes").write_text(f"{here}|drained|soractl: gpu.xid (79)\n")
    result = CliRunner().invoke(app, [*words.split(), "partition:gpu"])
    assert f"{here} is drained: soractl: gpu.xid (79)" in result.stderr
