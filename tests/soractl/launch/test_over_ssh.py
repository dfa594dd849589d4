import os
import threading

import pytest

from soractl.launch import follow as follower
from soractl.launch import start as launcher
from soractl.launch.node_watch import Timing
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.processes.scan import find
from soractl.processes.selection import Selection
from soractl.remote.connections import Connections
from soractl.runs import kill as killing
from soractl.terminal.progress_bar import PlainDisplay

pytestmark = pytest.mark.ssh

TRAIN_ONE_STEP = """
    if sys.argv[-3].endswith("node_rank=0"):
        train(1, 5)
    print("waiting", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def launch(workplace, start_cluster):
    """Launch the stand-in on three nodes that are reached over ssh."""
    cluster = start_cluster(3)
    workplace.write("hostfiles/three.txt", "n[1-3] slots=2\n")
    workplace.write("hostfiles/three.toml", f'environment = "{workplace.bin}"\n')

    def start(remote):
        prepared = prepare_launch("smoke", LaunchOptions(hostfile="three.txt"), os.environ)
        return launcher.launch(prepared, ["soractl"], remote)

    start.cluster = cluster
    start.workplace = workplace
    return start


def left_on(cluster, remote, names):
    nodes = [node for node in cluster.nodes if node.name in names]
    return [there.processes for there in find(nodes, remote, Selection(), deadline_s=5)]


def test_a_run_over_ssh_outlives_the_connections_that_started_it(launch):
    launch.workplace.ranks("time.sleep(1)\nprint(sys.argv[-3], os.environ['HOME'])")
    with launch.cluster.network():
        with Connections(launch.cluster.options) as remote:
            started = launch(remote)
        with Connections(launch.cluster.options) as remote:
            outcome, _ = follower.follow(started.run, started.attempt, remote, PlainDisplay())
    assert outcome.exit_code == 0
    home = launch.cluster.folder / "home"
    assert [started.attempt.node_log(f"n{i}").read_text() for i in (1, 2, 3)] == [
        f"{started.plan.nodes[0].command[-3].partition(',')[0]},nnodes=3,node_rank={rank} {home}\n"
        for rank in range(3)
    ]


def test_a_kill_from_another_terminal_ends_the_launch_with_a_clear_word(launch):
    launch.workplace.ranks(TRAIN_ONE_STEP)
    ended = []
    with launch.cluster.network(), Connections(launch.cluster.options) as remote:
        started = launch(remote)
        following = threading.Thread(
            target=lambda: ended.append(
                follower.follow(started.run, started.attempt, remote, PlainDisplay())
            )
        )
        following.start()
        root = launch.workplace.folder / "runs"
        targets = killing.targets(root, killing.KillOptions(), os.environ)
        killed = killing.kill(targets, lambda _: Connections(launch.cluster.options), grace_s=5)
        following.join(20)
        left = left_on(launch.cluster, remote, ["n1", "n2", "n3"])
    [(outcome, _)] = ended
    assert (killed.title, killed.exit_code) == ("001-smoke", 0)
    assert [len(node.found) >= 2 for node in killed.stopped] == [True] * 3
    assert (outcome.exit_code, outcome.first_failure.error) == (143, "SIGTERM")
    assert left == [()] * 3


@pytest.mark.slow  # a silent node is asked twice before it counts as lost
def test_a_node_that_is_switched_off_is_named_and_the_others_are_stopped(launch):
    soon = Timing(look_every_s=0.2, min_silence_s=0.5)
    launch.workplace.ranks(TRAIN_ONE_STEP)
    with launch.cluster.network(), Connections(launch.cluster.options) as remote:
        started = launch(remote)
        launch.cluster.do("off", "2")
        outcome, _ = follower.follow(started.run, started.attempt, remote, PlainDisplay(), soon)
        left = left_on(launch.cluster, remote, ["n1", "n3"])
    failure = outcome.first_failure
    assert (outcome.exit_code, failure.node) == (1, "n2")
    assert failure.error.startswith("the node does not answer (unreachable: ")
    assert left == [()] * 2
