import os
import sys
from pathlib import Path

import pytest

from soractl.launch import follow as follower
from soractl.launch import plan as launch_plan
from soractl.launch import start as launcher
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.remote import nodes
from soractl.remote.connections import Connections
from soractl.runs.post_mortem import Failure
from soractl.terminal.progress_bar import PlainDisplay
from tests.missing import give_up
from tests.soractl.conftest import free_port

pytestmark = pytest.mark.slow  # each start of `colossalai run` takes eight seconds

TRAIN = """
import os, signal, sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor(dist.get_rank() + 1)
dist.all_reduce(total)
line = f"rank {dist.get_rank()} of {dist.get_world_size()}: {total}, {sys.argv[1:]}\\n"
os.write(1, line.encode())  # at once, so that no other rank's line begins within it
if os.environ["FATE"] == "killed" and dist.get_rank() == 3:
    os.kill(os.getpid(), signal.SIGKILL)
dist.barrier()
dist.destroy_process_group()
"""
NAMES = ["127.0.0.2", "127.0.0.3"]


@pytest.fixture
def launch(workplace, monkeypatch):
    """Launch TRAIN on two nodes with two ranks each, below a folder with a space in its name."""
    if not Path(sys.executable).with_name("colossalai").exists():
        give_up("ColossalAI is not installed")
    monkeypatch.setattr(nodes, "_own_names", lambda: set(NAMES))
    monkeypatch.setattr(launch_plan, "TRAIN_SCRIPT", workplace.write("a folder/train.py", TRAIN))
    port = free_port()
    environment = Path(sys.executable).parent
    workplace.write("hostfiles/two.txt", "\n".join(f"{name} slots=2" for name in NAMES))

    def run(fate):
        workplace.write(
            "hostfiles/two.toml",
            f'environment = "{environment}"\nmaster_port = {port}\n[env]\nFATE = "{fate}"\n'
            'OMP_NUM_THREADS = 1\nGLOO_SOCKET_IFNAME = "lo"\n',
        )
        options = LaunchOptions(hostfile="two.txt", runs="a folder/runs")
        prepared = prepare_launch("smoke", options, os.environ)
        with Connections() as remote:
            started = launcher.launch(prepared, ["soractl"], remote)
            outcome, _ = follower.follow(started.run, started.attempt, remote, PlainDisplay())
        return started, outcome

    return run


def test_two_nodes_form_one_group_and_the_runs_path_arrives_whole(launch):
    started, outcome = launch("well")
    assert outcome.first_failure is None
    lines = [
        line
        for name in NAMES
        for line in started.attempt.node_log(name).read_text().splitlines()
        if line.startswith("rank ")
    ]
    assert sorted(lines) == [
        f"rank {rank} of 4: 10, {[str(started.run.path)]}" for rank in range(4)
    ]


def test_a_killed_rank_is_named_though_the_others_end_by_a_broken_connection(launch):
    _, outcome = launch("killed")
    failure = outcome.first_failure
    assert outcome.exit_code == 1
    assert failure == Failure(
        "127.0.0.3",
        "killed by SIGKILL; the kernel does that when memory runs out",
        rank=3,
        log_tail=failure.log_tail,
    )
    assert any("rank 3 of 4" in line for line in failure.log_tail)
