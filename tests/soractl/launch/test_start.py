import json
import os
import re
import threading

import pytest

from soractl.errors import Fault, FaultKind, SoractlError
from soractl.launch import follow as follower
from soractl.launch import start as launcher
from soractl.launch.prepare import LaunchOptions, prepare_launch, prepare_resume
from soractl.processes.scan import find
from soractl.processes.selection import Selection
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node, this_machine
from soractl.remote.requests import NodeResult
from soractl.runs.record import node_as_json
from soractl.terminal.progress_bar import PlainDisplay
from tests.waiting import wait_for
from trainer.atomic_files import read_json, write_json
from trainer.run_dir import RunDir, create_run


def prepared():
    return prepare_launch("smoke", LaunchOptions(hostfile="two.txt"), os.environ)


def launch_and_follow():
    with Connections() as remote:
        started = launcher.launch(prepared(), ["soractl", "launch", "smoke"], remote)
        outcome, progress = follower.follow(started.run, started.attempt, remote, PlainDisplay())
    return started, outcome, progress


def test_every_node_starts_with_its_rank_and_leaves_log_and_exit_code(two_nodes):
    two_nodes.ranks("""
        node_rank = sys.argv[-3].rpartition("=")[2]
        print("node rank", node_rank, os.environ["SORACTL_RUN_ID"])
        if node_rank == "0": train(1, 1)
    """)
    started, outcome, progress = launch_and_follow()
    assert (outcome.exit_code, outcome.first_failure, progress.global_step) == (0, None, 1)
    attempt, run = started.attempt, started.run
    assert [attempt.node_log(name).read_text() for name in ("n1", "n2")] == [
        f"node rank {rank} {run.path}\n" for rank in (0, 1)
    ]
    assert [int(attempt.node_exit(name).read_text()) for name in ("n1", "n2")] == [0, 0]
    assert read_json(attempt.exit) == outcome.as_json()
    plan = read_json(attempt.plan)
    assert plan["start"] == {"kind": "fresh", "path": None, "reset_data": False}
    assert plan["world_size"] == 4
    written = read_json(run.run_json)
    assert written["stage"] == "smoke"
    assert written["command"] == "soractl launch smoke"
    assert written["nodes"] == ["n1", "n2"]
    assert written["hostfile"] == str(two_nodes.folder / "hostfiles/two.txt")


def test_a_node_that_cannot_start_stops_the_launch_and_leaves_nothing_running(two_nodes):
    two_nodes.ranks("time.sleep(60)")
    (two_nodes.bin / "torchrun").unlink()
    with Connections() as remote, pytest.raises(SoractlError) as caught:
        launcher.launch(prepared(), ["soractl"], remote)
    path = f"{two_nodes.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert caught.value.exit_code == 5
    assert caught.value.message == f"n1: no torchrun in {path}"  # without its head nobody starts
    assert list((two_nodes.folder / "runs").glob("*-smoke")) == []


def test_a_resume_that_is_refused_at_the_start_leaves_the_run_as_it_was(two_nodes):
    two_nodes.ranks("if sys.argv[-3].endswith('=0'): save(1)")
    started, _, _ = launch_and_follow()
    (two_nodes.bin / "torchrun").unlink()
    again = prepare_resume("latest", LaunchOptions(), os.environ)
    with Connections() as remote, pytest.raises(SoractlError, match="no torchrun in"):
        launcher.launch(again, ["s"], remote)
    assert started.run.attempts() == [started.attempt]


def test_a_refused_start_that_a_node_may_still_run_keeps_its_folder_for_kill(two_nodes):
    two_nodes.ranks("time.sleep(60)")

    def remote_that_loses_n2(node, request, deadline_s):
        if node.name == "n2":
            return NodeResult(node, fault=Fault(FaultKind.UNREACHABLE, "no route"))
        return remote(node, request, deadline_s)

    with Connections() as remote, pytest.raises(SoractlError) as caught:
        launcher.launch(prepared(), ["soractl"], remote_that_loses_n2)
    assert caught.value.hint == "n2 may still run it; `soractl kill 001-smoke` stops that"
    [attempt] = RunDir(two_nodes.folder / "runs/001-smoke").attempts()
    assert "did not start: " in read_json(attempt.exit)["first_failure"]["error"]


def interrupting(remote, mark, once):
    """A Remote to which Ctrl-C comes at n2's request with `mark` in it, `once` that is true."""

    def asked(node, request, deadline_s):
        if node.name == "n2" and mark in request.stdin:
            wait_for(once)
            raise KeyboardInterrupt
        return remote(node, request, deadline_s)

    return asked


def test_ctrl_c_while_nodes_start_stops_those_that_did(two_nodes):
    two_nodes.ranks("time.sleep(60)")
    run = RunDir(two_nodes.folder / "runs/001-smoke")
    log = run.path / "attempts/1/n1.log"
    with Connections() as remote:
        with pytest.raises(SoractlError) as caught:
            launcher.launch(
                prepared(), ["s"], interrupting(remote, "start_new_session", log.exists)
            )
        left = find([this_machine()], remote, Selection(run_id=str(run.path)), deadline_s=15)
    assert (caught.value.message, caught.value.hint, caught.value.exit_code) == (
        "interrupted; 001-smoke was stopped again",
        None,
        130,
    )
    assert [node.processes for node in left] == [()]
    assert not run.path.exists()


def test_ctrl_c_while_a_run_is_looked_for_starts_nothing(two_nodes):
    two_nodes.ranks("if sys.argv[-3].endswith('=0'): save(1)")
    started, _, _ = launch_and_follow()
    again = prepare_resume("latest", LaunchOptions(), os.environ)
    with Connections() as remote, pytest.raises(SoractlError, match="interrupted") as caught:
        launcher.launch(again, ["s"], interrupting(remote, "/environ", lambda: True))
    assert caught.value.exit_code == 130
    assert [attempt.number for attempt in started.run.attempts()] == [1]


def test_a_run_is_never_started_twice_at_once(two_nodes):
    two_nodes.ranks("save(1)\nwhile not (run.path / 'end').exists(): time.sleep(0.05)")
    with Connections() as remote:
        first = launcher.launch(prepared(), ["soractl"], remote)
        wait_for(first.run.checkpoints)
        again = prepare_resume("latest", LaunchOptions(), os.environ)
        with pytest.raises(SoractlError, match="001-smoke is still running: ") as caught:
            launcher.launch(again, ["soractl"], remote)
        assert caught.value.exit_code == 5
        (first.run.path / "end").touch()
        follower.follow(first.run, first.attempt, remote, PlainDisplay())
    assert [attempt.number for attempt in first.run.attempts()] == [1]


def test_a_living_run_on_many_nodes_is_refused_in_one_line(tmp_path):
    run = create_run(tmp_path, "smoke")
    attempt = run.new_attempt()
    nodes = [{**node_as_json(Node(f"n{i:03}")), "ranks": 2} for i in range(1, 201)]
    values = {"run_id": str(run.path), "nodes": nodes, "ssh": {}, "started_unix_s": 0.0}
    write_json(attempt.plan, values)

    def ask(node, request, deadline_s):
        processes = 5 if node.name == "n001" else 4
        return NodeResult(node, stdout=f"=== processes {processes}\n", exit_code=0)

    with pytest.raises(SoractlError) as caught:
        launcher.refuse_if_alive(run, ask)
    where = "5 processes on n001, 4 processes on n[002-200]"
    assert str(caught.value) == f"001-smoke is still running: {where}"


def test_two_resumes_at_the_same_moment_start_one_attempt(two_nodes):
    two_nodes.ranks("if attempt.number == 1 and sys.argv[-3].endswith('=0'): save(1)")
    launch_and_follow()
    two_nodes.ranks("time.sleep(3)")
    answers = []

    def resume():
        try:
            again = prepare_resume("latest", LaunchOptions(), os.environ)
            with Connections() as remote:
                answers.append(launcher.launch(again, ["soractl"], remote).attempt.number)
        except SoractlError as fault:
            answers.append(fault.exit_code)

    threads = [threading.Thread(target=resume) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [2, 5, 5]


def test_of_launches_at_the_same_moment_one_goes_on_and_the_others_leave_no_run(two_nodes):
    two_nodes.ranks("time.sleep(20)")
    started, refused = [], []

    def launch():
        try:
            with Connections() as remote:
                started.append(launcher.launch(prepared(), ["soractl"], remote).run.name)
        except SoractlError as fault:
            refused.append(fault)

    threads = [threading.Thread(target=launch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = started
    runs = [path.name for path in (two_nodes.folder / "runs").glob("0*")]
    assert runs == [winner]
    assert [fault.exit_code for fault in refused] == [5, 5]
    used = re.compile(rf"n1: port 29500 is used by {winner} of \w+ since \d\d:\d\d")
    assert [bool(used.fullmatch(str(fault))) for fault in refused] == [True, True]


def test_resume_keeps_the_settings_of_each_attempt(two_nodes):
    two_nodes.ranks("if sys.argv[-3].endswith('=0'): save(7)")
    started, _, _ = launch_and_follow()
    options = LaunchOptions(overrides=("trainer.max_steps=20",))
    with Connections() as remote:
        second = launcher.launch(prepare_resume("latest", options, os.environ), ["s"], remote)
        follower.follow(second.run, second.attempt, remote, PlainDisplay())
    run = started.run
    settings = [
        read_json(path) for path in (run.config_json, *(a.config_json for a in run.attempts()))
    ]
    assert [values["trainer"]["max_steps"] for values in settings] == [
        None,
        None,
        20,
    ]  # until the trainer takes them over
    assert read_json(second.attempt.plan)["start"] == {
        "kind": "resume",
        "path": str(run.checkpoints_folder / "epoch0-global_step7"),
        "reset_data": False,
    }
    assert json.loads(run.run_json.read_text())["command"] == "soractl launch smoke"


def test_a_ranks_remedy_becomes_the_command_to_type_next(workplace):
    workplace.ranks(
        """
        save(1)
        failure = {"rank": 0, "node": "localhost", "error": "other clips", "traceback": None}
        failure["remedy"] = {"reset_data": True}
        write_json(attempt.rank_failure(0), {**failure, "time_unix_s": time.time()})
        sys.exit(1)
        """
    )
    done = workplace.soractl("launch", "smoke", "--force", code=1)
    assert done.stdout.splitlines()[-1] == "next: `soractl resume 001-smoke --reset-data`"
