"""What watching costs the head, and how long evidence takes: 24 nodes (and 3) of the test cluster.

A supervisor watches a run whose ranks are light: Python processes that answer as ranks do, and a
heartbeat every second. Printed: the CPU of the supervisor and its ssh clients as a share of one
core, over a minute of training; and the time of `soractl diagnose` there. Needs root.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from soractl.remote.nodes import Node  # noqa: E402 - after the path
from soractl.remote.ssh_command import SshOptions  # noqa: E402 - after the path
from soractl.runs.record import node_as_json  # noqa: E402 - after the path
from soractl.supervise.lease import read_holder  # noqa: E402 - after the path
from trainer.atomic_files import write_json  # noqa: E402 - after the path
from trainer.run_dir import RunDir, create_run  # noqa: E402 - after the path

CLUSTER_SH = REPOSITORY / "tests" / "cluster" / "cluster.sh"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SETTLED_S = 15.0  # connections are open, first looks are over
RANK = """\
import sys, time
sys.path.insert(0, {repository!r})
from trainer.rank_trace import answer_signals
answer_signals({run!r})
time.sleep(3600)
"""


def cluster_sh(*argv: str) -> None:
    subprocess.run([CLUSTER_SH, *argv], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def cluster(size: int) -> Iterator[None]:
    cluster_sh("up", str(size))
    try:
        yield
    finally:
        cluster_sh("down")


def on_head(*argv: str) -> subprocess.CompletedProcess[str]:
    words = [str(CLUSTER_SH), "head", *argv]
    return subprocess.run(words, check=False, capture_output=True, text=True)


def start_run(folder: Path, size: int) -> RunDir:
    """A run with a light rank on each node."""
    run = create_run(folder / "runs", "smoke")
    attempt = run.new_attempt()
    names = [f"n{number}" for number in range(1, size + 1)]
    plan = {
        "run_id": str(run.path),
        "nodes": [{**node_as_json(Node(name)), "ranks": 1} for name in names],
        "ssh": vars(SshOptions()),
        "started_unix_s": time.time(),
        "world_size": size,
        "start": {"kind": "fresh", "path": None},
    }
    write_json(attempt.plan, plan)
    write_json(run.run_json, {"stage": "smoke"})
    program = folder / "train.py"
    program.write_text(RANK.format(repository=str(REPOSITORY), run=str(run.path)))
    for rank, name in enumerate(names):
        environment = [f"SORACTL_RUN_ID={run.path}", f"RANK={rank}"]
        command = ["env", *environment, sys.executable, str(program)]
        words = [str(CLUSTER_SH), "node", name[1:], *command]
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return run


def cpu_s(session: int) -> float:
    """CPU seconds of all processes of a session, and of their children that have ended."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = file.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(words[3]) == session:
            ticks += sum(int(word) for word in words[11:15])
    return ticks / TICKS_PER_S


def supervisor_of(run: RunDir) -> int:
    """The supervisor's process by this machine's numbers; its own machine has others."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"soractl.supervise.process" in words and str(run.path).encode() in words:
            return int(file.parent.name)
    raise AssertionError("no supervisor runs")


def watched(run: RunDir, seconds: float) -> float:
    """Share of a core that watching costs, while a step ends every second."""
    done = on_head(sys.executable, "-m", "soractl.cli", "supervise", run.name, "--watch-only")
    assert done.returncode == 0, done.stdout + done.stderr
    pid = supervisor_of(run)
    session = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[3])
    begin_s = begin_cpu_s = 0.0
    started_s, step = time.monotonic(), 0
    while not begin_s or time.monotonic() - begin_s < seconds:
        step += 1
        run.beat(step, 10**6, 1)
        if not begin_s and time.monotonic() - started_s > SETTLED_S:
            begin_s, begin_cpu_s = time.monotonic(), cpu_s(session)
        time.sleep(1.0)
    used_s, wall_s = cpu_s(session) - begin_cpu_s, time.monotonic() - begin_s
    holder = read_holder(run.supervisor)
    print(f"    seen as {holder.state if holder else 'nothing'}, step {step}")
    os.kill(pid, 15)
    return used_s / wall_s


def evidence_s(run: RunDir) -> tuple[float, str]:
    """Wall seconds of `soractl diagnose`, and its verdict."""
    began_s = time.monotonic()
    done = on_head(sys.executable, "-m", "soractl.cli", "diagnose", run.name, "--json")
    took_s = time.monotonic() - began_s
    found = json.loads(done.stdout)
    return took_s, f"{found['verdict']['text']}; evidence {found['seconds']:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[3, 24])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("benchmarks/watcher.py: left out, only root can start the cluster")
        return
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    for size in options.nodes:
        with tempfile.TemporaryDirectory(prefix="soractl-watcher-") as name:
            folder = Path(name)
            os.environ["SORACTL_CLUSTER"] = str(folder / "cluster")
            os.chdir(folder)
            with cluster(size):
                run = start_run(folder, size)
                time.sleep(SETTLED_S)
                print(f"{size} nodes, load {os.getloadavg()[0]:.1f}", flush=True)
                share = watched(run, options.seconds)
                print(f"  watching: {100 * share:.2f} % of a core", flush=True)
                times = []
                for _ in range(options.repeat):
                    took_s, words = evidence_s(run)
                    times.append(took_s)
                    print(f"  diagnose: {took_s:.1f} s ({words})", flush=True)
                print(f"  diagnose, median: {statistics.median(times):.1f} s", flush=True)


if __name__ == "__main__":
    main()
