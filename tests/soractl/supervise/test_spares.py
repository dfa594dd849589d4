"""Three nodes over real ssh: one is switched off, and the spare takes its place."""

import os

import pytest

from soractl.cluster.settings import Cluster, SuperviseSettings
from soractl.launch import start as launcher
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.remote.connections import Connections
from soractl.runs.events import read_events
from soractl.runs.record import read_record
from soractl.supervise.act import Actor
from soractl.supervise.lease import Lease
from soractl.supervise.step_clock import Limits
from soractl.supervise.supervisor import Supervisor, Timing

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


@pytest.mark.ssh
@pytest.mark.slow  # a silent node is suspect for a while before it counts as lost
def test_a_node_is_switched_off_and_the_spare_takes_its_place(workplace, start_cluster):
    cluster = start_cluster(3)
    workplace.write("hostfiles/three.txt", "n1 slots=2\nn2 slots=2\nn3 slots=2 spare=true\n")
    workplace.write("hostfiles/three.toml", f'environment = "{workplace.bin}"\n')
    workplace.ranks(RANKS)
    with cluster.network(), Connections(cluster.options) as remote:
        prepared = prepare_launch("smoke", LaunchOptions(hostfile="three.txt"), os.environ)
        run = launcher.launch(prepared, ["soractl"], remote).run
        cluster.do("off", "2")
        lease = Lease(run.supervisor)
        assert lease.take()
        settings = Cluster(supervise=SuperviseSettings(most_starts=9))
        code = Supervisor(Actor(run, lease, remote), settings, timing=SOON).run()
    assert code == 0
    assert [
        [node.name for node in read_record(attempt).nodes] for attempt in run.attempts()
    ] == [["n1", "n2"], ["n1", "n3"]]  # fmt: skip
    story = [(event.kind, event.node) for event in read_events(run) if event.by == "supervisor"]
    assert ("lost", "n2") in story
    assert story[-1] == ("ended", None)
