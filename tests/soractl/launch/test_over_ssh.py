import os
import re
import threading

import pytest

from soractl.errors import SoractlError
from soractl.launch import follow as follower
from soractl.launch import preflight
from soractl.launch import start as launcher
from soractl.launch.node_watch import Timing
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.processes.scan import find
from soractl.processes.selection import Selection
from soractl.remote.connections import Connections
from soractl.runs import kill as killing
from soractl.terminal.progress_bar import PlainDisplay
from tests.waiting import wait_for

pytestmark = pytest.mark.ssh
N123 = ["n1", "n2", "n3"]

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


@pytest.mark.slow  # nodes with a network of their own
def test_of_two_starts_at_once_on_three_nodes_one_goes_on(launch):
    launch.workplace.ranks("time.sleep(120)")
    started, refused = [], []

    def start():
        try:
            with launch.cluster.network(), Connections(launch.cluster.options) as remote:
                started.append(launch(remote).run.name)
        except SoractlError as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [run], [error] = started, refused
    expected = [{str(launch.workplace.folder / "runs" / run)}] * 3
    with launch.cluster.network(), Connections(launch.cluster.options) as remote:

        def running():
            return [{p.run_id for p in there} for there in left_on(launch.cluster, remote, N123)]

        wait_for(lambda: running() == expected)  # a start does not wait for what it started
    used = rf"n1: GPUs 0-1 and port 29500 are used by {run} of root since \d\d:\d\d"
    assert (error.exit_code, bool(re.fullmatch(used, str(error)))) == (5, True)


@pytest.fixture
def findings(launch):
    """What preflight finds on three nodes."""

    def find(hostfile="n[1-3] slots=2\n"):
        launch.workplace.write("hostfiles/three.txt", hostfile)
        prepared = prepare_launch("smoke", LaunchOptions(hostfile="three.txt"), os.environ)
        with launch.cluster.network(), Connections(launch.cluster.options) as remote:
            return preflight.examine(prepared.plan, remote)

    find.cluster, find.workplace = launch.cluster, launch.workplace
    return find


@pytest.mark.slow  # nodes with a network of their own
def test_a_full_or_read_only_folder_of_one_node_is_one_sentence(findings):
    assert findings() == preflight.Findings()
    runs = findings.workplace.folder / "runs"
    runs.mkdir()
    node = findings.cluster.do
    node("node", "2", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm")
    node("node", "3", "mount", "--bind", str(runs), str(runs))
    node("node", "3", "mount", "-o", "remount,ro,bind", str(runs))
    found = findings()
    assert found.faults == (
        "n2: /dev/shm is full: 1.0 MB are free, ranks need it",
        f"n3: {runs} cannot be written there",
    )
    assert found.notes == (f"n3: {runs}: mounted: ro, expected rw",)


@pytest.mark.slow  # nodes with a network of their own
def test_one_machine_under_two_names_is_refused(findings):
    assert findings("n[1-2] slots=2\n10.77.0.12 slots=2\n").faults == (
        "10.77.0.12: it is n2 under another name; a machine can be a node only once",
    )


@pytest.mark.slow  # nodes with a network of their own
def test_clocks_that_differ_are_noted_and_the_start_goes_on(findings):
    date = findings.workplace.write(
        "late/date",
        "#!/bin/sh\nnow=$(/bin/date +%s)\n"
        "case $(hostname) in n1) by=3600 ;; n2) by=-1 ;; *) by=-60 ;; esac\n"
        'exec /bin/date -d "@$((now + by))" "$@"\n',
    )
    date.chmod(0o755)
    bashrc = findings.cluster.folder / "home/.bashrc"
    bashrc.write_text(f"export PATH={date.parent}:$PATH\n")
    found = findings()
    assert found.faults == ()
    ahead, *_, behind = found.notes  # `date` has whole seconds here: n2 is noted too
    assert re.fullmatch(r"n1: its clock is (1 h 00|59) min( 59 s)? ahead of this machine's", ahead)
    assert re.fullmatch(r"n3: its clock is (1 min 00|1 min 01|5[89]) s behind .*", behind)
