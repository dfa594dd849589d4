import os

import pytest

from soractl.cluster.settings import Cluster, SuperviseSettings
from soractl.launch import start as launcher
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.remote.connections import Connections
from soractl.supervise.act import Actor
from soractl.supervise.lease import Lease
from soractl.supervise.step_clock import Limits
from soractl.supervise.supervisor import Supervisor, Timing

SOON = Timing(
    tick_s=0.05,
    look_every_s=0.2,
    beat_s=0.1,
    wait_s=0.2,
    limits=Limits(suspect_s=0.5, alone_s=2.0, starting_s=60, first_step_s=60, saving_s=2.0),
)
BY_ATTEMPT = """
    number = attempt.number
    print("attempt", number, flush=True)
    if number == 1:
        train(1, 6); save(1); train(2, 6)
        {first}
    for step in range(run.checkpoints()[-1].manifest.global_step + 1, 7):
        train(step, 6); time.sleep(0.02)
    save(6)
"""


@pytest.fixture
def start(workplace):
    """Launch ranks that fail in the first attempt as the code says, and train on in the second."""

    def launch(first, **more):
        workplace.ranks(more.get("code") or BY_ATTEMPT.format(first=first))
        prepared = prepare_launch("smoke", LaunchOptions(), os.environ)
        with Connections() as remote:
            return launcher.launch(prepared, ["soractl"], remote).run

    return launch


@pytest.fixture
def supervise():
    """Supervise a run to its end, which is the exit code."""

    def to_the_end(run, *, most_starts=9, **more):
        settings = SuperviseSettings(most_starts=most_starts)
        lease = Lease(run.supervisor)
        assert lease.take()
        with Connections() as remote:
            actor = Actor(run, lease, remote)
            return Supervisor(actor, Cluster(supervise=settings), timing=SOON, **more).run()

    return to_the_end


@pytest.fixture
def fails_once(workplace):
    """Ranks that fail in the first attempt as the code says, and train on in the second."""
    return lambda first: workplace.ranks(BY_ATTEMPT.format(first=first))
