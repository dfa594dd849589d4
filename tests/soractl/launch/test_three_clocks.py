"""A run over ssh where no two clocks agree: the head node's is fast, the training nodes' slow."""

import re
import subprocess
import sys
import time

import pytest

from tests import preloaded
from tests.conftest import REPOSITORY
from tests.soractl.remote.plain_ssh import in_head
from tests.waiting import wait_for
from trainer.run_dir import RunDir

pytestmark = [pytest.mark.ssh, pytest.mark.slow]
DEAF_S = 24  # one node's sshd; the run was once given up after 21

TRAIN = """
    while not (run.path / "end").exists():
        if sys.argv[-3].endswith("node_rank=0"):
            step = locals().get("step", 0) + 1
            train(step, 1000)
        time.sleep(0.5)
"""


def test_steps_are_seen_and_a_healthy_run_is_left_alone(workplace, start_cluster, tmp_path):
    cluster = start_cluster(3)
    library = preloaded.compiled("preloaded_clock", tmp_path)
    slow = preloaded.clock_ahead(library, -60)
    exports = "".join(f"export {name}={value}\n" for name, value in slow.items())
    (cluster.folder / "home/.bashrc").write_text(exports)  # of what is asked over ssh
    ranks = "".join(f'{name} = "{value}"\n' for name, value in slow.items())
    workplace.write("hostfiles/three.txt", "n[1-3] slots=2\n")
    workplace.write("hostfiles/three.toml", f'environment = "{workplace.bin}"\n[env]\n{ranks}')
    workplace.ranks(TRAIN)
    fast = [f"{name}={value}" for name, value in preloaded.clock_ahead(library, 3600).items()]
    program = ("env", "-C", str(workplace.folder), *fast, sys.executable, "-m", "soractl.cli")

    def soractl(*words):
        done = in_head(cluster, *program, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def line(name):
        """A line of `status`."""
        return next(x for x in soractl("status", "1").splitlines() if x.startswith(name))

    def last_step_s():
        found = re.fullmatch(r"last step +([0-9]+) s ago", line("last step"))
        return int(found[1])

    def step():
        return int(re.search(r"step ([0-9]+)/1000", line("at "))[1])

    run = RunDir(workplace.folder / "runs/001-smoke")
    soractl("launch", "smoke", "--force", "--detach", "--hostfile", "three.txt")
    wait_for(run.heartbeat.exists, 30)
    written_s = time.time() - float(
        re.search(r"time_unix_s\": ([0-9.]+)", run.heartbeat.read_text())[1]
    )
    assert 30 < written_s < 90  # the ranks' clock is late indeed
    argv = [str(REPOSITORY / "tests/cluster/cluster.sh"), "head", "env", f"PYTHONPATH={REPOSITORY}"]
    with (workplace.folder / "followed").open("w") as shown:
        following = subprocess.Popen(
            [*argv, *program, "follow", "1"],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SORACTL_CLUSTER": str(cluster.folder)},
            stdin=subprocess.DEVNULL,
            stdout=shown,
            stderr=shown,
        )
    before, age_s = step(), last_step_s()
    cluster.do("freeze", "2")
    time.sleep(DEAF_S)
    assert line("state").startswith("state      running")
    assert (step() > before, age_s < 20, last_step_s() < 20) == (True, True, True)
    cluster.do("thaw", "2")
    (run.path / "end").touch()
    assert following.wait(60) == 0
    seen = (workplace.folder / "followed").read_text()
    assert "ended well at step" in seen
    assert not re.search(r"-[0-9]+ s|stall|no step", seen)
