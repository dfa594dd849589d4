import os
import threading
import time

import pytest

from soractl.errors import Fault, FaultKind, SoractlError
from soractl.launch import follow as follower
from soractl.launch import start as launcher
from soractl.launch.follow import attempt_to_follow, follow
from soractl.launch.node_watch import Timing
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.launch.start import launch
from soractl.remote.connections import Connections
from soractl.remote.requests import NodeResult
from soractl.runs.events import read_events
from soractl.runs.find import find_run
from soractl.runs.post_mortem import read_outcome
from soractl.runs.status import read_status
from soractl.terminal.progress_bar import PlainDisplay
from tests.soractl.launch.test_start import launch_and_follow, prepared
from tests.waiting import wait_for
from trainer.run_dir import create_run

SOON = Timing(tick_s=0.05, look_every_s=0.1, peer_exit_grace_s=0.5)
UNTIL_AN_END = """
    if sys.argv[-3].endswith("node_rank=0"): train(1, 5)
    while not (run.path / "end").exists(): time.sleep(0.05)
    sys.exit(3 if (run.path / "end").read_text() == sys.argv[-3][-1] else 0)
"""
# A launcher that is killed, and its rank, which is not; the rank's name is that of a program.
OUTLIVED = """
    if sys.argv[-3].endswith("node_rank=0"):
        import subprocess
        code = "import pathlib, time\\nwhile not pathlib.Path('end').exists(): time.sleep(0.05)"
        rank = [sys.executable, "-c", code, "trainer/train.py"]
        subprocess.Popen(rank, env={**os.environ, "RANK": "0"}, cwd=run.path)
        os.kill(os.getpid(), 9)
    while not (run.path / "end").exists(): time.sleep(0.05)
"""


def begin(remote):
    """A run on two nodes that nobody follows."""
    prepared = prepare_launch("smoke", LaunchOptions(hostfile="two.txt"), os.environ)
    return launch(prepared, ["soractl"], remote)


class Following(threading.Thread):
    """A follower beside the test."""

    def __init__(self, started, remote):
        super().__init__(daemon=True)
        self.shown, self.outcome = [], None
        self._followed, self._remote = started, remote
        self.start()

    def show(self, progress):
        pass

    def say(self, text):
        self.shown.append(text)

    def run(self):
        run, attempt = self._followed.run, self._followed.attempt
        self.outcome, _ = follow(run, attempt, self._remote, self, SOON)


def test_a_detached_run_is_taken_up_and_its_end_is_settled(workplace):
    workplace.ranks("train(1, 5)\nsave(1)\nsys.exit(3)")
    workplace.soractl("launch", "smoke", "--detach")
    run = find_run(workplace.folder / "runs", "latest")
    wait_for(lambda: list(run.path.glob("attempts/1/*.exit")))
    assert read_outcome(run.attempts()[0]) is None
    done = workplace.soractl("follow", code=1)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("001-smoke failed at step 1 after ")
    assert lines[-1] == "next: `soractl resume 001-smoke`"
    assert read_outcome(run.attempts()[0]).exit_code == 1
    assert workplace.soractl("follow", "1", code=1).stdout == done.stdout


def test_a_run_that_never_started_cannot_be_followed(tmp_path):
    with pytest.raises(SoractlError, match="001-smoke never started") as caught:
        attempt_to_follow(create_run(tmp_path, "smoke"))
    assert caught.value.exit_code == 6


def test_two_followers_see_one_end_and_stop_the_nodes_once(two_nodes):
    two_nodes.ranks(UNTIL_AN_END)
    with Connections() as remote:
        started = begin(remote)
        followers = [Following(started, remote) for _ in range(2)]
        (started.run.path / "end.draft").write_text("1")
        (started.run.path / "end.draft").rename(started.run.path / "end")
        for follower in followers:
            follower.join(30)
    first, second = followers
    assert first.outcome == second.outcome == read_outcome(started.attempt)
    assert (first.outcome.exit_code, first.outcome.first_failure.node) == (1, "n2")
    kinds = [event.kind for event in read_events(started.run) if event.by == "follow"]
    assert (kinds.count("ended"), kinds.count("crashed")) == (1, 1)


def test_a_follower_of_an_attempt_that_a_later_one_followed_stops_nothing(two_nodes):
    two_nodes.ranks("time.sleep(60)")
    with Connections() as remote:
        started = begin(remote)
        started.attempt.node_exit("n2").write_text("1\n")
        later = started.run.new_attempt()
        later.plan.write_bytes(started.attempt.plan.read_bytes())
        outcome, _ = follow(started.run, started.attempt, remote, PlainDisplay(), SOON)
        status = read_status(started.run, remote)
    assert (outcome.exit_code, status.attempt, status.state) == (1, 2, "running")


def test_ranks_that_outlive_their_launcher_train_on_with_a_note(two_nodes):
    two_nodes.ranks(OUTLIVED)
    lost = "n1: its launcher is gone, 1 rank of the run go on"
    with Connections() as remote:
        started = begin(remote)
        follower = Following(started, remote)
        wait_for(lambda: follower.shown)
        status = read_status(started.run, remote)
        assert (status.state, status.nodes[0].outlived_by) == ("running", 1)
        assert follower.outcome is None
        (started.run.path / "end").touch()
        follower.join(30)
    assert (follower.shown[0], follower.outcome.exit_code) == (lost, 1)


def test_an_end_that_cannot_be_noted_is_shown_all_the_same(two_nodes):
    two_nodes.ranks("")
    with Connections() as remote:
        started = begin(remote)
        started.attempt.exit.mkdir()  # no file takes its place
        follower = Following(started, remote)
        follower.join(30)
    assert follower.outcome.exit_code == 0
    assert follower.shown == [f"{started.attempt.exit} cannot be written: Is a directory"]


def test_one_failed_node_ends_the_others_and_is_named(two_nodes):
    two_nodes.ranks("""
        if sys.argv[-3].endswith("node_rank=0"):
            time.sleep(60)
        print("out of luck")
        sys.exit(1)
    """)
    began = time.monotonic()
    started, outcome, _ = launch_and_follow()
    assert time.monotonic() - began < 15
    failure = outcome.first_failure
    assert (outcome.exit_code, failure.node, failure.log_tail) == (1, "n2", ("out of luck",))
    assert started.attempt.node_exit("n1").exists()


def test_a_lost_node_may_still_run_it_and_the_command_to_type_is_named(two_nodes, capsys):
    two_nodes.ranks("time.sleep(60)")
    with Connections() as remote:

        def n2_is_lost(node, request, deadline_s):
            if node.name == "n2":
                return NodeResult(node, fault=Fault(FaultKind.UNREACHABLE, "no route"))
            return remote(node, request, deadline_s)

        started = launcher.launch(prepared(), ["soractl"], remote)
        outcome, _ = follower.follow(
            started.run,
            started.attempt,
            n2_is_lost,
            PlainDisplay(),
            Timing(look_every_s=0.1, min_silence_s=1),
        )
    assert outcome.first_failure.node == "n2"
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "n2 failed; stopping all nodes",
        "n2 may still run it; `soractl kill 001-smoke` stops that",
    ]
