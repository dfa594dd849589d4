"""Hooks of docs/slurm.md in the slurm.conf of a real Slurm.

`make slurm` runs it with long_slurm.py.
"""

import re
import sys
import time
from pathlib import Path

import pytest

from soractl.queue.record import read_record
from soractl.runs.record import read_record as read_plan
from tests.conftest import REPOSITORY
from tests.soractl.queue.conftest import GPUS
from tests.soractl.queue.long_slurm import site as site
from tests.soractl.queue.long_slurm import wait_for_step
from tests.soractl.queue.test_real_slurm import workplace_of as workplace_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.ssh]
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\n"
AT_MOST_S = 12.0  # the hook's own ten, and what starts it on a busy machine
PERIODIC = "HealthCheck"


def of_the_docs(slurm):
    """The script and the lines of slurm.conf of the page, with the paths of this place."""
    text = (REPOSITORY / "docs/slurm.md").read_text()
    [script] = re.findall(r"```sh\n(cat > /etc/slurm.*?)```", text, re.S)
    [lines] = re.findall(r"```\n# slurm.conf.*?\n(.*?)```", text, re.S)
    stand_in = f" FAKE_GPUS={slurm.folder}/gpus PYTHONPATH={REPOSITORY} PATH={GPUS}:"
    for theirs, ours in {
        "/var/log/slurm": f"{slurm.folder}/log",
        "/etc/slurm": str(slurm.folder),
        "/shared/env/bin/soractl": f"{slurm.folder}/soractl",
        "HealthCheckInterval=300": "HealthCheckInterval=5",
        " PATH=": stand_in,
    }.items():
        assert theirs in script + lines
        script, lines = script.replace(theirs, ours), lines.replace(theirs, ours)
    return script, lines.splitlines()


def install(slurm, keep):
    """As an administrator does it, those lines of slurm.conf that `keep` takes."""
    script, lines = of_the_docs(slurm)
    slurm.run("sh", "-ec", script)
    (slurm.folder / "soractl").symlink_to(Path(sys.executable).with_name("soractl"))
    kept = "".join(f"{line}\n" for line in lines if keep(line))
    slurm.conf.write_text(kept + slurm.conf.read_text())


def all_hooks(slurm):
    """Prolog, Epilog and HealthCheckProgram."""
    install(slurm, lambda _: True)


def around_jobs(slurm):
    """Prolog and Epilog alone: what a node is drained for was found by one of them."""
    install(slurm, lambda line: not line.startswith(PERIODIC))
    old = "SchedulerParameters="  # a job whose prolog fails is held without this
    slurm.conf.write_text(slurm.conf.read_text().replace(old, f"{old}nohold_on_prolog_fail,"))


def break_gpus(slurm, node):
    """nvidia-smi of a node fails, as after a driver was replaced below a running one."""
    here = slurm.folder / "gpus" / node
    here.mkdir(parents=True)
    (here / "code").write_text("18\n")
    (here / "out").write_text(MISMATCH)
    return here / "out"


def state_of(slurm, node):
    """State, without Slurm's sign for a node that has yet to answer, and reason of a node."""
    asked = ("sinfo", "--noheader", f"--nodes={node}", "--format=%T|%E")
    state, reason = slurm.run(*asked).stdout.splitlines()[0].split("|")
    return state.rstrip("*"), reason


def by_hand(slurm, node, hook):
    """Exit code and seconds of a hook on a node, without an environment, as slurmd starts it."""
    began = time.monotonic()
    argv = ("env", "-i", f"SLURMD_NODENAME=n{node}", f"{slurm.folder}/soractl-{hook}")
    answer = slurm.cluster.do("node", str(node), "sh", "-c", f"{' '.join(argv)}; echo $?")
    return int(answer), time.monotonic() - began


@pytest.mark.parametrize("before_start", [all_hooks])
def test_a_bad_node_is_drained_until_it_is_good_and_others_reasons_stay(slurm_cluster):
    slurm = slurm_cluster
    assert sorted(slurm.run("srun", "--nodes=3", "/bin/hostname").stdout.split()) == [
        "n1",
        "n2",
        "n3",
    ]
    slurm.run("scontrol", "update", "nodename=n3", "state=drain", "reason=maintenance")
    bad = break_gpus(slurm, "n2")
    wait_for(lambda: state_of(slurm, "n2")[0] == "drained")
    assert state_of(slurm, "n2")[1] == (
        "soractl: gpu.driver (nvidia-smi: driver and library versions differ, expected ok)"
    )
    assert slurm.run("srun", "--nodes=1", "/bin/hostname").stdout == "n1\n"
    bad.unlink()
    wait_for(lambda: state_of(slurm, "n2")[0] == "idle")
    assert state_of(slurm, "n3") == ("drained", "maintenance")
    wait_for(lambda: state_of(slurm, "n1")[0] == "idle")  # its job's epilog has ended


@pytest.mark.parametrize("before_start", [around_jobs])
def test_a_prolog_that_finds_its_node_bad_gives_the_job_another_one(site, slurm_cluster):
    slurm = slurm_cluster
    break_gpus(slurm, "n1")
    soractl = site("")
    soractl("launch", "smoke", "--slurm", "--detach")
    wait_for_step(site.run, 2)
    assert [node.name for node in read_plan(site.run.attempts()[-1]).nodes] == ["n2", "n3"]
    state, reason = state_of(slurm, "n1")
    assert state == "drained"
    assert reason.startswith("soractl: gpu.")
    soractl("kill")
    assert read_record(site.run.attempts()[-1]).then == "ended"
    assert slurm.queue() == []


@pytest.mark.parametrize("before_start", [around_jobs])
def test_a_hook_ends_in_time_and_drains_nothing_for_a_fault_of_its_own(slurm_cluster):
    slurm = slurm_cluster
    (slurm.folder / "gpus/n1").mkdir(parents=True)
    delay = slurm.folder / "gpus/n1/delay"
    delay.write_text("60\n")  # nvidia-smi hangs: the node's fault
    for hook, expected in (("prolog", 1), ("epilog", 1), ("hcprogram", 0)):
        code, took_s = by_hand(slurm, 1, hook)
        assert code == expected
        assert took_s < AT_MOST_S
    assert state_of(slurm, "n1")[1].startswith("soractl: gpu.driver (nvidia-smi: did not answer")
    delay.unlink()
    by_hand(slurm, 1, "hcprogram")
    assert state_of(slurm, "n1")[0] == "idle"
    program = slurm.folder / "soractl"
    program.unlink()
    for broken in (f"#!{sys.executable}\nimport no_such_module\n", "#!/bin/sh\nsleep 60\n"):
        program.write_text(broken)
        program.chmod(0o755)
        code, took_s = by_hand(slurm, 1, "prolog")
        assert code == 0
        assert took_s < AT_MOST_S
    program.unlink()
    assert slurm.run("srun", "--nodelist=n1", "/bin/hostname").stdout == "n1\n"
    wait_for(lambda: state_of(slurm, "n1")[0] == "idle")
