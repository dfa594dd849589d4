import getpass
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from soractl.errors import Fault, FaultKind
from soractl.processes.scan import NodeProcesses, find, parse
from soractl.processes.selection import Process, Selection, select
from soractl.processes.stop import StopResult, stop
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node, this_machine
from soractl.remote.requests import NodeResult

HERE = this_machine()
ME = getpass.getuser()
NODE = Node("n1")


def process(pid, ppid, command, **changes):
    values = {"sid": pid, "user": "me", "run_id": None, "rank": None, "state": "S", "started": pid}
    return Process(node=NODE, pid=pid, ppid=ppid, command=command, **(values | changes))


# A node on which run 7 trains with two ranks, and on which other things happen too.
SSHD = process(10, 1, "sshd: me@notty", user="root")
SHELL = process(11, 10, "sh -s", sid=11)
GREP = process(12, 11, "grep -azH x", sid=11)
LAUNCHER = process(20, 1, "python colossalai run trainer/train.py /runs/7", run_id="/runs/7")
TORCHRUN = process(21, 20, "python /venv/bin/torchrun x", sid=20, run_id="/runs/7")
RANK_0 = process(22, 21, "python trainer/train.py /runs/7", run_id="/runs/7", rank=0)
RANK_1 = process(23, 21, "python trainer/train.py /runs/7", run_id="/runs/7", rank=1)
LOADER = process(24, 22, "python trainer/train.py /runs/7", sid=22, run_id="/runs/7", rank=0)
STRIPPED = process(25, 22, "ffprobe clip.mp4", sid=22)
OTHER_RUN = process(30, 1, "python trainer/train.py /runs/8", run_id="/runs/8", rank=0)
OTHER_USER = process(40, 1, "python train.py", user="bob", run_id="/runs/7")
SEED_STYLE = process(50, 1, "python scripts/train.py configs/stage1.py")
SEED_CHILD = process(51, 50, "python -c from multiprocessing.spawn import x", sid=50)
SSH_CLIENT = process(60, 1, "ssh n2 pkill -f python.*train.py")
OUR_TOOL = process(61, 1, "python /venv/bin/soractl kill --pattern python.*train.py")
EVERYTHING = [SSHD, SHELL, GREP, LAUNCHER, TORCHRUN, RANK_0, RANK_1, LOADER, STRIPPED, OTHER_RUN,
              OTHER_USER, SEED_STYLE, SEED_CHILD, SSH_CLIENT, OUR_TOOL]  # fmt: skip


def pids(which):
    return [(p.pid, p.role) for p in select(EVERYTHING, SHELL.pid, which)]


def test_a_run_is_its_launcher_its_ranks_and_what_they_started():
    assert pids(Selection(run_id="/runs/7")) == [
        (20, "other"),
        (21, "other"),
        (22, "rank"),
        (23, "rank"),
        (24, "worker"),
        (25, "other"),
    ]


def test_every_run_of_mine_is_nothing_of_another_user():
    assert [pid for pid, _ in pids(Selection())] == [20, 21, 22, 23, 24, 25, 30]


def test_with_sudo_other_users_count_too():
    assert [pid for pid, _ in pids(Selection(sudo=True))] == [20, 21, 22, 23, 24, 25, 30, 40]


def test_a_pattern_means_command_lines_and_their_children_but_no_tool():
    which = Selection(pattern=r"python.*scripts/train\.py")
    assert [pid for pid, _ in pids(which)] == [50, 51]
    matching = Selection(pattern=r"python.*train\.py")
    assert [pid for pid, _ in pids(matching)] == [20, 21, 22, 23, 24, 25, 30, 50, 51]


def test_our_own_shell_and_all_that_leads_to_it_are_never_meant():
    assert pids(Selection(pattern="sshd|sh -s|grep", sudo=True)) == []


def test_a_session_that_somebody_else_began_does_not_belong_to_a_run_in_it():
    terminal = process(70, 1, "bash")
    by_hand = process(71, 70, "python trainer/train.py", sid=70, run_id="/runs/9", rank=0)
    editor = process(72, 70, "vim", sid=70)
    chosen = select([SHELL, terminal, by_hand, editor], SHELL.pid, Selection(run_id="/runs/9"))
    assert [p.pid for p in chosen] == [71]


def test_a_session_whose_first_process_is_gone_still_belongs_to_the_run():
    orphan = process(81, 1, "python trainer/train.py", sid=80, run_id="/runs/9", rank=0)
    child = process(82, 81, "ffprobe clip.mp4", sid=80)
    chosen = select([SHELL, orphan, child], SHELL.pid, Selection(run_id="/runs/9"))
    assert [p.pid for p in chosen] == [81, 82]


@pytest.mark.parametrize(
    ("command", "is_torchrun"),
    [
        ("/venv/bin/python3 /venv/bin/torchrun --nproc_per_node=8", True),
        ("torchrun --nnodes=1", True),
        ("python -m torch.distributed.run --nnodes=1", True),
        ("bash -c cd /x && torchrun --nnodes=1", False),
        ("python trainer/train.py runs/torchrun", False),
    ],
)
def test_torchrun_is_known_by_its_first_words(command, is_torchrun):
    assert process(1, 0, command).is_torchrun == is_torchrun


def test_what_a_node_says_becomes_processes():
    stdout = (
        "22/environ:SORACTL_RUN_ID=/runs/7 a\n22/environ:RANK=3\n=== environ 0\n"
        "22 me\n11 me\n=== owners 0\n"
        "11/stat:11 (sh) S 10 11 11 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 500 0\n"
        "22/stat:22 (a) b) c) D 1 22 22 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0\n"
        "23/stat:23 (zombie) Z 1 22 22 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 778 0\n"
        "24/stat:cut off\n=== stat 0\n"
        "11/cmdline:sh\n11/cmdline:-s\n22/cmdline:python\n22/cmdline:-c\n"
        "22/cmdline:two lines\n22/cmdline:\n=== cmdline 0\n=== self 11\n"
    )
    processes, own_pid = parse(NodeResult(NODE, stdout=stdout, exit_code=0))
    assert processes == [
        Process(NODE, 11, 10, 11, "me", None, None, "sh -s", "S", 500),
        Process(NODE, 22, 1, 22, "me", "/runs/7 a", 3, "python -c two lines ", "D", 777),
    ]
    assert own_pid == 11


def test_a_node_that_does_not_answer_keeps_its_row():
    def remote(node, request, deadline_s):
        if node.name == "off":
            return NodeResult(node, fault=Fault(FaultKind.UNREACHABLE, "switched off"))
        return NodeResult(node, stderr="sudo: a password is required\n", exit_code=1)

    nodes = [Node("off"), Node("strict")]
    assert find(nodes, remote, Selection(sudo=True), deadline_s=5) == [
        NodeProcesses(nodes[0], fault=Fault(FaultKind.UNREACHABLE, "switched off")),
        NodeProcesses(nodes[1], fault=Fault(FaultKind.FAILED, "sudo: a password is required")),
    ]
    seen = []
    results = stop(nodes, remote, Selection(sudo=True), grace_s=1, on_result=seen.append)
    assert results == [
        StopResult(nodes[0], fault=Fault(FaultKind.UNREACHABLE, "switched off")),
        StopResult(nodes[1], fault=Fault(FaultKind.FAILED, "sudo: a password is required")),
    ]
    assert sorted(seen, key=str) == sorted(results, key=str)


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


PROGRAM = """
import os, signal, subprocess, sys, time
name = sys.argv[1]
def rank(signum, frame):
    open(sys.argv[2], "a").write("told\\n")
    os._exit(0)
if "deaf" in name:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif "saves" in name:
    signal.signal(signal.SIGTERM, rank)
worker = subprocess.Popen(["sleep", "4720"], start_new_session="torchrun" not in name)
stripped = subprocess.Popen(["sleep", "4721"], env={"PATH": os.environ["PATH"]})
print("up", flush=True)
time.sleep(600)
"""


@contextmanager
def running(tmp_path, run_id, name="rank"):
    """A process of a run with two children, one of which lost its environment."""
    environ = {**os.environ, "SORACTL_RUN_ID": run_id, "RANK": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, name, str(tmp_path / "told")],
        env=environ,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def stop_here(which, grace_s):
    with Connections() as remote:
        [result] = stop([HERE], remote, which, grace_s=grace_s)
    return result


def test_a_run_is_found_with_its_rank_and_children(tmp_path):
    run_id = str(tmp_path)
    with running(tmp_path, run_id) as process, Connections() as remote:
        [there] = find([HERE], remote, Selection(run_id=run_id), deadline_s=5)
        stop([HERE], remote, Selection(run_id=run_id), grace_s=5)
    found = {p.command[-4:]: (p.user, p.run_id, p.rank, p.role) for p in there.processes}
    assert found == {
        "told": (ME, run_id, 0, "rank"),
        "4720": (ME, run_id, 0, "worker"),
        "4721": (ME, None, None, "other"),
    }
    assert [p.pid for p in there.processes if p.role == "rank"] == [process.pid]


def test_processes_are_listed_by_age_also_after_their_numbers_began_anew():
    young = process(301, 300, "python trainer/train.py /runs/7", started=900, run_id="/runs/7")
    old = process(32766, 1, "python colossalai run", started=700, run_id="/runs/7")
    middle = process(300, 32766, "torchrun", started=800, run_id="/runs/7")
    chosen = select([young, middle, SHELL, old], SHELL.pid, Selection(run_id="/runs/7"))
    assert [p.pid for p in chosen] == [32766, 300, 301]


def test_a_run_ends_by_term_with_all_that_it_started(tmp_path):
    with running(tmp_path, str(tmp_path), "saves") as process:
        result = stop_here(Selection(run_id=str(tmp_path)), 5)
        assert process.wait(1) == 0
    assert (result.ok, len(result.found), result.killed) == (True, 3, 0)
    assert (tmp_path / "told").read_text() == "told\n"


def test_what_is_deaf_to_term_is_killed_after_the_grace(tmp_path):
    with running(tmp_path, str(tmp_path), "deaf") as process:
        started = time.monotonic()
        result = stop_here(Selection(run_id=str(tmp_path)), 0.6)
        assert process.wait(1) == -signal.SIGKILL
    assert (result.ok, len(result.found), result.killed) == (True, 3, 3)
    assert time.monotonic() - started < 5


NAMED = """
import ctypes, sys, time
ctypes.CDLL(None).prctl(15, sys.argv[1].encode("latin-1"))
print("up", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("name", ["two\nlines) S 1", ") S 2 0 0 0", "a\n1/stat:1 (", "\xff("])
def test_no_name_of_a_process_hides_it_or_stops_a_scan(tmp_path, name):
    """A process names itself as it likes, with line ends and brackets."""
    with (
        running(tmp_path, f"{tmp_path}/other") as other,
        subprocess.Popen(
            [sys.executable, "-c", NAMED, name],
            env={**os.environ, "SORACTL_RUN_ID": str(tmp_path)},
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as named,
    ):
        named.stdout.readline()
        result = stop_here(Selection(run_id=str(tmp_path)), 5)
        assert (result.ok, [p.pid for p in result.found]) == (True, [named.pid])
        assert named.wait(1) == -signal.SIGTERM
        assert other.poll() is None


def test_other_runs_and_bystanders_are_left_alone(tmp_path):
    with running(tmp_path, f"{tmp_path}/1"), running(tmp_path, f"{tmp_path}/11") as other:
        assert stop_here(Selection(run_id=f"{tmp_path}/1"), 5).ok
        assert other.poll() is None
        assert stop_here(Selection(run_id=f"{tmp_path}/11"), 5).ok


SAVING = """
import os, signal, sys, time
def save(signum, frame):
    time.sleep(float(sys.argv[2]))
    with open(sys.argv[1], "a") as told:
        told.write(f"rank {os.environ['RANK']}\\n")
    sys.exit(143)
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[2] == "deaf" else save)
open(f"{sys.argv[1]}.up{os.environ['RANK']}", "w").close()
while True:
    time.sleep(0.1)
"""


@contextmanager
def under_torchrun(tmp_path, seconds_of_a_save):
    """Two ranks that save at TERM, and the launcher's note of how torchrun ended."""
    (tmp_path / "train.py").write_text(SAVING)
    command = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node=2"
    script = f"{command} {tmp_path}/train.py {tmp_path}/told {seconds_of_a_save}; echo $? > noted"
    environ = {**os.environ, "SORACTL_RUN_ID": str(tmp_path)}
    with subprocess.Popen(
        ["sh", "-c", script], env=environ, cwd=tmp_path, start_new_session=True
    ) as launcher:
        wait_until(lambda: len(list(tmp_path.glob("told.up*"))) == 2)
        try:
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
    assert sorted((tmp_path / "told").read_text().split("\n")) == ["", "rank 0", "rank 1"]
    assert (tmp_path / "noted").read_text() == "1\n"


def test_when_ranks_are_deaf_the_launcher_still_notes_that_torchrun_was_stopped(tmp_path):
    with under_torchrun(tmp_path, "deaf"):
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
    wait_until(lambda: all(cluster.do("node", k, "ls", "/run").count("up") for k in "123"))
    with cluster.network(), Connections(cluster.options) as remote:
        results = stop(cluster.nodes, remote, Selection(run_id="/runs/1"), grace_s=5)
        left = find(cluster.nodes, remote, Selection(), deadline_s=5)
    assert [(r.node.name, r.ok, len(r.found)) for r in results] == [
        ("n1", True, 1),
        ("n2", True, 1),
        ("n3", True, 1),
    ]
    assert [[p.run_id for p in there.processes] for there in left] == [["/runs/2"]] * 3


def wait_until(condition):
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)
