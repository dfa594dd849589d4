import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from soractl.processes.scan import find
from soractl.processes.selection import Process, Selection
from soractl.processes.stop import StopResult, stop
from soractl.remote.connections import Connections
from soractl.remote.requests import NodeResult
from tests.soractl.processes.processes import HERE, NODE, running, stop_here
from tests.waiting import wait_for


def test_survivors_and_memory_still_held_are_named():
    def remote(node, request, deadline_s):
        stat = "22/stat:22 (python) D 1 22 22 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0\n"
        scan = f"22/environ:SORACTL_RUN_ID=r\n=== environ 0\n22 me\n9 me\n=== owners 0\n{stat}"
        scan += "9/stat:9 (sh) S 1 9 9 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 500 0\n=== stat 0\n"
        scan += "22/cmdline:python\n=== cmdline 0\n=== self 9\n"
        stopping = "=== killed 1\n22\n=== holding 0\n" if "TERM" in request.stdin else ""
        return NodeResult(node, stdout=stopping + scan, exit_code=0)

    [result] = stop([NODE], remote, Selection(), grace_s=0)
    stuck = Process(NODE, 22, 1, 22, "me", "r", None, "python", "D", 777)
    assert result == StopResult(NODE, (stuck,), killed=1, survivors=(stuck,), gpu_pids=(22,))
    assert not result.ok


def test_a_run_ends_by_term_with_all_that_it_started(tmp_path):
    with running(tmp_path, str(tmp_path), "saves") as process:
        result = stop_here(Selection(run_id=str(tmp_path)), 5)
        assert process.wait(1) == 0
    assert (result.ok, len(result.found), result.killed) == (True, 3, 0)
    assert (tmp_path / "term").read_text() == "term\n"


def test_processes_that_ignore_term_are_killed_after_the_grace(tmp_path):
    with running(tmp_path, str(tmp_path), "stubborn") as process:
        started = time.monotonic()
        result = stop_here(Selection(run_id=str(tmp_path)), 0.6)
        assert process.wait(1) == -signal.SIGKILL
    assert (result.ok, len(result.found), result.killed) == (True, 3, 3)
    assert time.monotonic() - started < 5


def test_other_runs_and_bystanders_are_left_alone(tmp_path):
    with running(tmp_path, f"{tmp_path}/1"), running(tmp_path, f"{tmp_path}/11") as other:
        assert stop_here(Selection(run_id=f"{tmp_path}/1"), 5).ok
        assert other.poll() is None
        assert stop_here(Selection(run_id=f"{tmp_path}/11"), 5).ok


SAVING = """
import os, signal, sys, time
def save(signum, frame):
    time.sleep(float(sys.argv[2]))
    with open(sys.argv[1], "a") as term:
        term.write(f"rank {os.environ['RANK']}\\n")
    sys.exit(143)
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[2] == "stubborn" else save)
open(f"{sys.argv[1]}.up{os.environ['RANK']}", "w").close()
while True:
    time.sleep(0.1)
"""


@contextmanager
def under_torchrun(tmp_path, seconds_of_a_save):
    """Two ranks that save at TERM, and the launcher's note of how torchrun ended."""
    (tmp_path / "train.py").write_text(SAVING)
    command = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node=2"
    script = f"{command} {tmp_path}/train.py {tmp_path}/term {seconds_of_a_save}; echo $? > noted"
    environ = {**os.environ, "SORACTL_RUN_ID": str(tmp_path)}
    with subprocess.Popen(
        ["sh", "-c", script], env=environ, cwd=tmp_path, start_new_session=True
    ) as launcher:
        try:
            wait_for(lambda: len(list(tmp_path.glob("term.up*"))) == 2)
            yield
        finally:
            launcher.kill()


@pytest.mark.parametrize(
    "seconds_of_a_save",
    [0.5, pytest.param(33, marks=pytest.mark.slow)],  # torchrun itself would wait for 30
)
def test_ranks_end_their_save_and_torchrun_and_its_launcher_end_by_themselves(
    tmp_path, seconds_of_a_save
):
    with under_torchrun(tmp_path, seconds_of_a_save):
        result = stop_here(Selection(run_id=str(tmp_path)), seconds_of_a_save + 10)
    assert (result.ok, result.killed) == (True, 0)
    assert sorted((tmp_path / "term").read_text().split("\n")) == ["", "rank 0", "rank 1"]
    assert (tmp_path / "noted").read_text() == "1\n"


def test_when_ranks_ignore_term_the_launcher_still_notes_that_torchrun_was_stopped(tmp_path):
    with under_torchrun(tmp_path, "stubborn"):
        result = stop_here(Selection(run_id=str(tmp_path)), 0.6)
    assert (result.ok, result.killed) == (True, 4)
    assert (tmp_path / "noted").read_text() == "1\n"


def test_a_pattern_stops_what_soractl_did_not_start(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        result = stop_here(Selection(pattern=f"python.*{tmp_path}/train\\.py"), 5)
        assert process.wait(1) == -signal.SIGTERM
    assert (result.ok, [p.command for p in result.found]) == (
        True,
        [f"{sys.executable} {script}"],
    )


def test_nothing_there_is_no_fault(tmp_path):
    assert stop_here(Selection(run_id=str(tmp_path)), 5) == StopResult(HERE)


@pytest.mark.ssh
def test_a_run_on_three_nodes_is_stopped_and_its_namesakes_are_not(start_cluster, tmp_path):
    cluster = start_cluster(3)
    program = tmp_path / "train.py"
    program.write_text("import time\nopen(f'/run/up', 'w').close()\ntime.sleep(600)\n")
    for k in ("1", "2", "3"):
        for run in ("/runs/1", "/runs/2"):
            start = f"SORACTL_RUN_ID={run} setsid {sys.executable} {program} > /dev/null 2>&1 &"
            cluster.do("node", k, "sh", "-c", start)
    wait_for(lambda: all(cluster.do("node", k, "ls", "/run").count("up") for k in "123"))
    with cluster.network(), Connections(cluster.options) as remote:
        results = stop(cluster.nodes, remote, Selection(run_id="/runs/1"), grace_s=5)
        left = find(cluster.nodes, remote, Selection(), deadline_s=5)
    assert [(r.node.name, r.ok, len(r.found)) for r in results] == [
        ("n1", True, 1),
        ("n2", True, 1),
        ("n3", True, 1),
    ]
    assert [[p.run_id for p in there.processes] for there in left] == [["/runs/2"]] * 3
