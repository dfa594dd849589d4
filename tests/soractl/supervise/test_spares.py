"""Spares that wait are checked; over real ssh one takes the place of a node that is off."""

import os

import pytest

from soractl.cluster.settings import Cluster, SuperviseSettings
from soractl.errors import SoractlError
from soractl.launch import start as launcher
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.remote.connections import Connections
from soractl.runs.events import read_events
from soractl.runs.record import read_record
from soractl.supervise.act import Actor
from soractl.supervise.lease import Lease
from soractl.supervise.spares import Spares
from soractl.supervise.step_clock import Limits
from soractl.supervise.supervisor import Supervisor, Timing
from tests.waiting import wait_for
from trainer.atomic_files import RunDirError
from trainer.settings import ConfigError

SOON = Timing(
    tick_s=0.1,
    look_every_s=0.5,
    limits=Limits(suspect_s=1.0, alone_s=20.0, alone_p95=1.0, starting_s=120.0),
)
RANKS = """
    if attempt.number == 1:
        if sys.argv[-3].endswith("node_rank=0"):
            train(1, 4); save(1); train(2, 4)
        time.sleep(600)
    if sys.argv[-3].endswith("node_rank=0"):
        train(2, 4); train(3, 4); train(4, 4)
"""


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


class Waiting:
    """Spares whose faults a test sets, and what is noted of them."""

    def __init__(self):
        self.clock, self.faults, self.checks, self.noted = Clock(), {}, 0, []
        self.spares = Spares(self.examine, lambda *words: self.noted.append(words), self.clock)

    def examine(self):
        self.checks += 1
        if isinstance(self.faults, Exception):
            raise self.faults
        return dict(self.faults)

    def at(self, now_s, faults):
        """Look until a check that is due by then has ended."""
        self.clock.now_s, self.faults = now_s, faults
        self.spares.look()
        wait_for(lambda: self.spares._asking is None or self.spares._asking.done())
        self.spares.look()
        return self.spares.unfit


def test_spares_are_checked_every_ten_minutes_and_what_changes_is_noted():
    waiting = Waiting()
    assert waiting.at(0.0, {}) == {}
    assert waiting.at(599.0, {"n3": "no route"}) == {}
    assert waiting.at(600.0, {"n3": "no route"}) == {"n3": "no route"}
    assert waiting.at(1200.0, {"n3": "no route"}) == {"n3": "no route"}
    assert waiting.at(1800.0, {}) == {}
    assert waiting.checks == 4
    assert waiting.noted == [
        ("n3", "this spare cannot take a place: no route"),
        ("n3", "this spare can take a place again"),
    ]


@pytest.mark.parametrize(
    "error",
    [
        SoractlError("no host file"),
        ConfigError(["cluster.toml: no setting `ndoes`"]),
        RunDirError("the plan is damaged"),
        OSError("stale file handle"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_check_that_fails_leaves_the_last_one_as_it_was(error):
    waiting = Waiting()
    waiting.at(0.0, {"n3": "no route"})
    assert waiting.at(600.0, error) == {"n3": "no route"}


def test_a_start_that_was_refused_has_them_checked_at_once():
    waiting = Waiting()
    waiting.at(0.0, {})
    waiting.faults = {"n3": "/dev/shm is full"}
    waiting.spares.check()
    assert waiting.spares.unfit == {"n3": "/dev/shm is full"}


@pytest.mark.ssh
@pytest.mark.slow  # a silent node is suspect for a while before it counts as lost
def test_a_node_is_switched_off_and_the_first_fit_spare_takes_its_place(workplace, start_cluster):
    cluster = start_cluster(4)
    spares = "n3 slots=2 spare=true\nn4 slots=2 spare=true\n"
    workplace.write("hostfiles/three.txt", f"n1 slots=2\nn2 slots=2\n{spares}")
    cluster.do("node", "3", "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/dev/shm")
    workplace.write("hostfiles/three.toml", f'environment = "{workplace.bin}"\n')
    workplace.ranks(RANKS)
    with cluster.network(), Connections(cluster.options) as remote:
        prepared = prepare_launch("smoke", LaunchOptions(hostfile="three.txt"), os.environ)
        run = launcher.launch(prepared, ["soractl"], remote).run
        started = cluster.do("node", "4", "sh", "-c", "pgrep -f [t]rain.py || true")
        cluster.do("off", "2")
        lease = Lease(run.supervisor)
        assert lease.take()
        settings = Cluster(supervise=SuperviseSettings(most_starts=9))
        code = Supervisor(Actor(run, lease, remote), settings, timing=SOON).run()
    assert (code, started) == (0, "")
    assert [
        [node.name for node in read_record(attempt).nodes] for attempt in run.attempts()
    ] == [["n1", "n2"], ["n1", "n4"]]  # fmt: skip
    story = [(event.kind, event.node) for event in read_events(run) if event.by == "supervisor"]
    assert story.index(("spare", "n3")) < story.index(("restarted", None))
    assert ("lost", "n2") in story
    assert story[-1] == ("ended", None)
