"""Cost of watching on the head, seconds until a hang is known, and seconds of evidence.

A supervisor watches a run on 3 and on 24 nodes of the test cluster. Its ranks are light: Python
processes that answer as ranks do, and a heartbeat every second. Printed: the CPU of the supervisor
and of its ssh clients as a share of one core; the seconds from the last step to the verdict, for
heartbeats that stop; and the time of `soractl diagnose`. Needs root.
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

from fanout import CLUSTER_SH, REPOSITORY, cluster

sys.path.insert(0, str(REPOSITORY))

from soractl.remote.nodes import Node
from soractl.remote.ssh_command import SshOptions
from soractl.runs.events import Event, EventKind, read_events
from soractl.runs.record import node_as_json
from trainer.atomic_files import write_json
from trainer.run_dir import RunDir, create_run

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SETTLED_S = 15.0  # connections are open, first looks are over
MOST_S = 150.0  # for a verdict
RANK = """\
import sys, time
sys.path.insert(0, {repository!r})
from trainer.rank_trace import answer_signals
answer_signals({run!r})
time.sleep(3600)
"""


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


def cpu_s(pid: int) -> tuple[float, float]:
    """CPU seconds of the supervisor and of its machine's ssh clients, also those that have ended.

    Clients that several commands share are nobody's children; each machine has its own processes.
    """
    machine = Path(f"/proc/{pid}/ns/pid").readlink()
    own = clients = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = file.read_text().rpartition(") ")
            is_here = (file.parent / "ns/pid").readlink() == machine
        except OSError:
            continue
        ticks = [int(word) for word in rest.split()[11:15]]
        if int(file.parent.name) == pid:
            own, clients = sum(ticks[:2]), clients + sum(ticks[2:])
        elif is_here and name.endswith("(ssh"):
            clients += sum(ticks[:2])
    return own / TICKS_PER_S, clients / TICKS_PER_S


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


@contextmanager
def supervised(run: RunDir) -> Iterator[int]:
    """A supervisor that only watches; its process."""
    done = on_head(sys.executable, "-m", "soractl.cli", "supervise", run.name, "--watch-only")
    assert done.returncode == 0, done.stdout + done.stderr
    pid = supervisor_of(run)
    try:
        yield pid
    finally:
        os.kill(pid, 15)


class Steps:
    """Steps that end, one a second."""

    def __init__(self, run: RunDir) -> None:
        self._run, self._step = run, 0

    def go_on(self, seconds: float) -> float:
        """When the last one was, by the monotonic clock."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._step += 1
            self._run.beat(self._step, 10**6, 1)
            last_s = time.monotonic()
            time.sleep(1.0)
        return last_s


def cost(pid: int, steps: Steps, seconds: float) -> tuple[float, float]:
    """Shares of a core that the supervisor and its ssh clients take."""
    steps.go_on(SETTLED_S)
    begin_s, begin = time.monotonic(), cpu_s(pid)
    steps.go_on(seconds)
    end, wall_s = cpu_s(pid), time.monotonic() - begin_s
    return (end[0] - begin[0]) / wall_s, (end[1] - begin[1]) / wall_s


def verdict_s(run: RunDir, steps: Steps) -> tuple[float, str]:
    """Seconds from the last step to the verdict, and its words."""

    def hangs() -> list[Event]:
        return [event for event in read_events(run) if event.kind == EventKind.HUNG]

    known = len(hangs())
    last_s = steps.go_on(SETTLED_S)
    while len(found := hangs()) == known:
        assert time.monotonic() - last_s < MOST_S
        time.sleep(0.1)
    return time.monotonic() - last_s, found[-1].text


def evidence_s(run: RunDir) -> tuple[float, str]:
    """Wall seconds of `soractl diagnose`, and its verdict."""
    began_s = time.monotonic()
    done = on_head(sys.executable, "-m", "soractl.cli", "diagnose", run.name, "--json")
    took_s = time.monotonic() - began_s
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    return took_s, f"{found['verdict']['text']}; evidence {found['seconds']:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[3, 24])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--hangs", type=int, default=5)
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
                steps = Steps(run)
                with supervised(run) as pid:
                    own, ssh = cost(pid, steps, options.seconds)
                    words = f"supervisor {100 * own:.2f} %, its ssh clients {100 * ssh:.2f} %"
                    print(f"  watching: {100 * (own + ssh):.2f} % of a core ({words})", flush=True)
                    for _ in range(options.hangs):
                        took_s, words = verdict_s(run, steps)
                        print(f"  verdict: {took_s:.1f} s ({words})", flush=True)
                times = []
                for _ in range(options.repeat):
                    took_s, words = evidence_s(run)
                    times.append(took_s)
                    print(f"  diagnose: {took_s:.1f} s ({words})", flush=True)
                print(f"  diagnose, median: {statistics.median(times):.1f} s", flush=True)


if __name__ == "__main__":
    main()
