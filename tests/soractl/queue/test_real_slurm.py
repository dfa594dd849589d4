"""Runs under a real slurmctld, with three slurmd and munge on the test cluster."""

import logging
import os
import random
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from soractl.processes.scan import find
from soractl.processes.selection import Selection
from soractl.queue.record import read_record
from soractl.remote.connections import Connections
from soractl.runs.events import metrics_rows
from tests.end_to_end.conftest import clips_csv as clips_csv
from tests.soractl.queue.requeues import interrupt, lines, requeues, trained_batches
from tests.waiting import wait_for
from trainer.run_dir import RunDir

pytestmark = [pytest.mark.ssh, pytest.mark.slow]
LOG = logging.getLogger(__name__)
SORACTL = Path(sys.executable).with_name("soractl")

SAVES_AND_LEAVES = """
    if sys.argv[-3].endswith("node_rank=0") and "RANK" not in os.environ:
        import subprocess
        sys.exit(subprocess.run(sys.argv, env={**os.environ, "RANK": "0"}).returncode)
    if "RANK" in os.environ:
        def leave(*_):
            save(attempt.number)
            write_json = __import__("trainer.atomic_files").atomic_files.write_json
            write_json(attempt.stopped, {"signal": "SIGTERM"})
            sys.exit(143)
        signal.signal(signal.SIGTERM, leave)
        (run.path / "ready").touch()
    while not attempt.stopped.exists(): time.sleep(0.1)
    sys.exit(143)
"""


@pytest.fixture
def workplace_of(slurm_cluster, workplace):
    """Writes the cluster's file, and gives a function that runs soractl on the head node."""

    def prepare(settings):
        workplace.write("hostfiles/slurm.toml", settings)

        def soractl(*arguments, code=0):
            done = slurm_cluster.run(SORACTL, *arguments, cwd=workplace.folder, check=False)
            assert done.returncode == code, done.stdout + done.stderr
            return done.stdout

        return soractl

    return prepare


SMOKE = """\
[slurm]
nodes = 3
gpus_per_node = 2

[env]
GLOO_SOCKET_IFNAME = "eth0"
OMP_NUM_THREADS = 1
"""


def test_a_real_run_comes_back_each_time_and_trains_on_each_sample_once(
    workplace_of, slurm_cluster, workplace, clips_csv
):
    """REQUEUES=9 and SEED ask for more of them; LIMITS=1 is how many of them are time limits."""
    signals, limits = (int(os.environ.get(*one)) for one in (("REQUEUES", "3"), ("LIMITS", "0")))
    draw = random.Random(int(os.environ.get("SEED", "1")))
    soractl = workplace_of(SMOKE)
    last_step = 6 * signals + 4 + 30 * limits  # it trains on until Slurm looks at limits
    settings = (f"data.path={clips_csv}", "epochs=100", f"trainer.max_steps={last_step}")
    settings += ("log.every_steps=1",)
    overrides = [word for one in settings for word in ("--set", one)]
    soractl("launch", "smoke", "--slurm", "--detach", *overrides)
    run = RunDir(workplace.folder / "runs/001-smoke")
    steps_before = []
    for i in range(signals):  # also while ranks start, but three of these in a row give up
        by_limit = i < limits
        steps_before.append(draw.randint(int(by_limit or i % 3 == 2), 2))
        interrupt(run, slurm_cluster, steps_before[-1], by_limit=by_limit)
    soractl("follow", "latest")
    costs = requeues(run)
    with_steps = pairwise([*steps_before, last_step])  # the last attempt makes the rest
    assert len(costs) >= sum(all(pair) for pair in with_steps)
    LOG.info("what each requeue cost:\n%s", "\n".join(lines(costs)))
    number = len(run.attempts())
    steps = [row["global_step"] for row in metrics_rows(run) if "loss" in row]
    assert run.checkpoints()[-1].manifest.global_step == last_step
    assert sorted(steps) == list(range(1, last_step + 1))
    trained = trained_batches(run)
    assert len(trained) == len(set(trained))
    assert [read_record(one).restarts for one in run.attempts()] == list(range(number))
    assert slurm_cluster.queue() == []


def test_kill_lets_a_job_save_and_empties_queue_and_nodes(workplace_of, slurm_cluster, workplace):
    soractl = workplace_of(
        f'environment = "{workplace.bin}"\n[slurm]\nnodes = 3\ngpus_per_node = 2\n'
    )
    workplace.ranks(SAVES_AND_LEAVES)
    soractl("launch", "smoke", "--slurm", "--detach")
    run = RunDir(workplace.folder / "runs/001-smoke")
    wait_for((run.path / "ready").exists)
    assert "queue    running as job" in soractl("status")
    soractl("kill")
    assert slurm_cluster.queue() == []
    with slurm_cluster.cluster.network(), Connections(slurm_cluster.cluster.options) as remote:
        left = find(slurm_cluster.cluster.nodes, remote, Selection(), deadline_s=10)
    assert [node.processes for node in left] == [(), (), ()]
    [attempt] = run.attempts()
    assert read_record(attempt).then == "ended"
    assert [checkpoint.manifest.global_step for checkpoint in run.checkpoints()] == [1]


def test_a_job_that_cannot_start_says_why_and_is_taken_out(workplace_of, slurm_cluster, workplace):
    soractl = workplace_of(
        f'environment = "{workplace.bin}"\n[slurm]\nnodes = 3\ngpus_per_node = 2\n'
    )
    blocking = ("sbatch", "--nodes=1", "--exclusive", "--output=/dev/null", "--wrap=sleep 300")
    slurm_cluster.run(*blocking, cwd=workplace.folder)
    wait_for(lambda: slurm_cluster.queue() == ["RUNNING"])
    soractl("launch", "smoke", "--slurm", "--detach")
    wait_for(lambda: "not enough nodes are free" in soractl("status"))
    assert "state  queued" in soractl("status")
    assert "has left the queue" in soractl("kill")
    assert slurm_cluster.queue() == ["RUNNING"]


def test_a_partition_that_is_not_there_is_slurms_own_sentence(workplace_of):
    soractl = workplace_of('[slurm]\ngpus_per_node = 2\npartition = "nowhere"\n')
    soractl("launch", "smoke", "--slurm", "--detach", code=5)
