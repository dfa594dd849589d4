"""More of a real Slurm, with ranks that only save: preemption, lost nodes, chains, spares.

`make slurm` runs it, a few minutes long; CI runs test_real_slurm.py alone.
"""

import json
import time

import pytest

from soractl.processes.scan import find
from soractl.processes.selection import Selection
from soractl.queue.record import read_record
from soractl.remote.connections import Connections
from soractl.runs.events import read_events
from soractl.runs.record import read_record as read_plan
from tests.soractl.queue.test_real_slurm import workplace_of as workplace_of
from tests.waiting import wait_for
from trainer.atomic_files import read_json
from trainer.run_dir import RunDir

pytestmark = [pytest.mark.ssh]

# Each node's launcher is its only rank, with eight workers that note every signal; that of node
# rank 0 trains a step a second, saves each fifth, and saves and leaves at TERM.
RANKS = """
    import subprocess
    is_head = sys.argv[-3].endswith("node_rank=0")
    if "RANK" not in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        rank = "0" if is_head else "1"
        sys.exit(subprocess.run(sys.argv, env={**os.environ, "RANK": rank}).returncode % 256)
    write_json = __import__("trainer.atomic_files").atomic_files.write_json
    noted = run.path / f"signals-{attempt.number}"
    def note(number, _):
        with noted.open("a") as file: file.write(f"{number}\\n")
    for _ in range(8):
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGUSR1): signal.signal(number, note)
            os.environ["LOCAL_RANK"] = "worker"
            parent = os.getppid()
            while os.getppid() == parent: time.sleep(0.05)
            os._exit(0)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    done = max([one.manifest.global_step for one in run.checkpoints()] or [0])
    (run.path / "ready").touch()
    last = int(os.environ.get("LAST", "30"))
    beat = attempt.path / "beat"  # a step needs all nodes
    if is_head:
        for step in range(done + 1, last + 1):
            while not beat.exists() or time.time() - beat.stat().st_mtime > 2: time.sleep(0.1)
            train(step, last)
            time.sleep(1)
            if step % 5 == 0 or stopped: save(step)
            if stopped:
                write_json(attempt.stopped, {"signal": "SIGTERM", "time_unix_s": time.time()})
                sys.exit(143)
        (attempt.path / "over").touch()
        sys.exit(0)
    while not attempt.stopped.exists() and not (attempt.path / "over").exists():
        beat.touch()
        time.sleep(0.1)
    sys.exit(143 if attempt.stopped.exists() else 0)
"""


@pytest.fixture
def site(workplace_of, slurm_cluster, workplace):
    """Settings of [slurm] become soractl on the head node, with a run's folder."""

    def prepare(more, nodes=2):
        lines = f"[slurm]\nnodes = {nodes}\ngpus_per_node = 2\n{more}\n"
        workplace.ranks(RANKS)
        return workplace_of(f'environment = "{workplace.bin}"\n{lines}')

    prepare.run = RunDir(workplace.folder / "runs/001-smoke")
    return prepare


def steps_of(run):
    return [json.loads(line)["global_step"] for line in run.metrics.read_text().splitlines()]


def wait_for_step(run, step):
    wait_for(lambda: run.metrics.exists() and max(steps_of(run), default=0) >= step)


def processes(slurm_cluster):
    with slurm_cluster.cluster.network(), Connections(slurm_cluster.cluster.options) as remote:
        found = find(slurm_cluster.cluster.nodes, remote, Selection(), deadline_s=10)
    return [len(node.processes) for node in found]


def ends(run):
    return [event.kind for event in read_events(run) if event.by == "slurm"]


def test_where_requeueing_is_forbidden_the_next_job_of_the_chain_goes_on(site, slurm_cluster):
    soractl = site('lines = ["--no-requeue"]')
    soractl("launch", "smoke", "--slurm", "--detach")
    wait_for_step(site.run, 3)
    assert len(slurm_cluster.queue()) == 4
    job = read_record(site.run.attempts()[0]).job_id
    slurm_cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    wait_for(lambda: len(site.run.attempts()) == 2)
    soractl("follow", "latest")
    _, second = site.run.attempts()
    assert read_record(second).job_id > job
    assert read_json(second.plan)["start"]["kind"] == "resume"
    assert site.run.checkpoints()[-1].manifest.global_step == 30
    wait_for(lambda: slurm_cluster.queue() == [])  # the chain is cancelled at the end


def test_a_chain_that_adds_no_checkpoint_ends_with_93(site, slurm_cluster, workplace):
    soractl = site('lines = ["--no-requeue"]')
    workplace.ranks("(run.path / 'ready').touch()\nos.environ['RANK'] = '0'\ntime.sleep(600)")
    soractl("launch", "smoke", "--slurm", "--detach")
    for number in (1, 2, 3):
        wait_for(lambda: len(site.run.attempts()) == number)  # noqa: B023 - waited for here
        attempt = site.run.attempts()[-1]
        wait_for(attempt.plan.exists)
        time.sleep(3)
        job = read_record(attempt).job_id
        slurm_cluster.run("scancel", f"{job}.0")
        wait_for(lambda: read_record(attempt).then != "queued")  # noqa: B023 - waited for here
    assert read_record(site.run.attempts()[-1]).then == "ended"
    wait_for(lambda: slurm_cluster.queue() == [])
    shown = slurm_cluster.run("scontrol", "show", "job", str(job)).stdout
    assert "ExitCode=93:0" in shown


@pytest.mark.parametrize("is_warned", [True, False])
def test_a_preempted_run_comes_back(site, slurm_cluster, is_warned):
    if is_warned:
        slurm_cluster.reconfigure("SlurmctldParameters=preempt_send_user_signal")
    soractl = site('partition = "gpu"', nodes=3)
    soractl("launch", "smoke", "--slurm", "--detach")
    wait_for_step(site.run, 3)
    urgent = ("--partition=urgent", "--nodes=1", "--exclusive", "--output=/dev/null")
    slurm_cluster.run("sbatch", *urgent, "--wrap=sleep 10", cwd="/tmp")
    wait_for(lambda: read_record(site.run.attempts()[0]).then == "requeued")
    soractl("follow", "latest")
    assert site.run.checkpoints()[-1].manifest.global_step == 30
    assert sorted(set(steps_of(site.run))) == list(range(1, 31))
    noted = site.run.path / "signals-1"
    # Workers hear nothing of a warning to the batch shell; a preemption without one reaches all.
    assert (noted.read_text().split() if noted.exists() else []) == (
        [] if is_warned else ["15"] * 24
    )


def test_a_node_that_is_lost_costs_the_steps_since_the_save_and_another_takes_its_place(
    site, slurm_cluster
):
    soractl = site("")
    soractl("launch", "smoke", "--slurm", "--detach")
    wait_for_step(site.run, 6)
    names = [node.name for node in read_plan(site.run.attempts()[0]).nodes]
    slurm_cluster.cluster.do("off", names[1].removeprefix("n"))
    wait_for(lambda: len(site.run.attempts()) == 2, 120)
    soractl("follow", "latest")
    second = read_plan(site.run.attempts()[1])
    assert names[1] not in [node.name for node in second.nodes]
    assert read_json(site.run.attempts()[1].plan)["start"]["path"].endswith("step5")
    assert site.run.checkpoints()[-1].manifest.global_step == 30


def test_a_drained_node_is_left_out_and_shown_with_its_reason(site, slurm_cluster):
    reason = "soractl: gpu.xid (79)"
    slurm_cluster.run("scontrol", "update", "nodename=n1", "state=drain", f"reason={reason}")
    soractl = site("")
    soractl("launch", "smoke", "--slurm", "--detach")
    wait_for_step(site.run, 2)
    slurm_cluster.run("scontrol", "update", "nodename=n2", "state=drain", "reason=maintenance")
    wait_for_step(site.run, 5)  # what runs there goes on
    assert [node.name for node in read_plan(site.run.attempts()[0]).nodes] == ["n2", "n3"]
    done = slurm_cluster.run(
        "soractl", "exec", "partition:gpu", "--", "hostname", cwd=site.run.path.parent.parent
    )
    assert f"n1 is drained: {reason}" in done.stderr
    assert "n2 is draining: maintenance" in done.stderr
    job = read_record(site.run.attempts()[0]).job_id
    soractl("exec", f"job:{job}", "--", "hostname")
    soractl("kill")
    assert processes(slurm_cluster) == [0, 0, 0]


def test_an_allocation_of_salloc_is_used_in_place(site, slurm_cluster, workplace):
    site("")
    inside = ("soractl", "launch", "smoke", "--slurm", "--force")
    salloc = ("salloc", "--nodes=2", "--exclusive")
    done = slurm_cluster.run(*salloc, *inside, cwd=workplace.folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [attempt] = site.run.attempts()
    assert [node.name for node in read_plan(attempt).nodes] == ["n1", "n2"]
    assert not attempt.job.exists()
    assert slurm_cluster.queue() == []


def test_a_spare_inside_the_job_takes_the_place_of_a_lost_node(site, slurm_cluster):
    soractl = site("spares = 1")
    soractl("launch", "smoke", "--slurm", "--supervise", "--detach")
    wait_for_step(site.run, 6)
    off_at = time.time()
    slurm_cluster.cluster.do("off", "2")
    soractl("follow", "latest")
    assert [[node.name for node in read_plan(one).nodes] for one in site.run.attempts()] == [
        ["n1", "n2"],
        ["n1", "n3"],
    ]
    assert len({read_record(one).job_id for one in site.run.attempts()}) == 1
    kinds = {event.kind: event.time_unix_s for event in read_events(site.run)}
    assert "requeued" not in kinds
    assert kinds["restarted"] - kinds["lost"] < 60
    assert kinds["lost"] > off_at
    assert site.run.checkpoints()[-1].manifest.global_step == 30
