"""Seconds of `health` and `doctor` on 24 nodes beside `gpus`, and the nodes' own part of them.

All take turns on one namespace cluster (tests/cluster), whose stand-in nvidia-smi prints eight
H100s. This machine is all of the nodes: "nodes' CPU" is what their sshds and all below them took,
which 24 real nodes take at the same time. Needs root.

    python benchmarks/judging.py [--nodes 24] [--repeat 5]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fanout import CLUSTER_SH, REPOSITORY, cluster, spent

STATE = Path(f"/tmp/soractl-judging-{os.getpid()}")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
COMMANDS = ("gpus", "health", "doctor")


@dataclass(frozen=True)
class Run:
    """One command, once."""

    wall_s: float
    client_s: float  # processor time of the command and of its ssh clients
    nodes_s: float


def nodes_cpu_s() -> float:
    """Processor time so far of all nodes' first processes, which are sshd, and of its children."""
    stats = "cat $(sed 's,.*,/proc/&/stat,' " + f"{STATE}/pid/n[1-9]*[0-9] {STATE}/pid/n[1-9])"
    argv = [str(CLUSTER_SH), "head", "sh", "-c", stats]
    printed = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    rows = [line.rpartition(") ")[2].split() for line in printed.splitlines()]
    return sum(int(ticks) for row in rows for ticks in row[11:15]) / TICKS_PER_S


def measure(command: str) -> Run:
    """One run of a command on the head."""
    argv = [str(CLUSTER_SH), "head", sys.executable, "-m", "soractl.cli", command]
    before, began = nodes_cpu_s(), time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall_s, client_s = spent(process, began)
    time.sleep(0.3)  # for the last connections to end
    return Run(wall_s, client_s, nodes_cpu_s() - before)


def table(runs: dict[str, list[Run]]) -> Iterator[str]:
    """Medians, and how many times `gpus` they are."""
    yield "| command | s | times gpus | client's CPU, s | nodes' CPU, s |\n|---|---|---|---|---|"
    usual = statistics.median(run.wall_s for run in runs["gpus"])
    for command, its in runs.items():
        walls = [run.wall_s for run in its]
        wall_s = statistics.median(walls)
        client_s, nodes_s = (
            statistics.median(getattr(run, field) for run in its)
            for field in ("client_s", "nodes_s")
        )
        yield (
            f"| {command} | {wall_s:.2f} ({min(walls):.2f} - {max(walls):.2f}) "
            f"| {wall_s / usual:.2f} | {client_s:.2f} | {nodes_s:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=24)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("benchmarks/judging.py: left out, only root can start the cluster")
        return
    os.environ |= {"SORACTL_CLUSTER": str(STATE), "PYTHONPATH": str(REPOSITORY)}
    runs: dict[str, list[Run]] = {}
    with cluster(options.nodes):
        for command in COMMANDS:
            measure(command)  # compiles what is not compiled yet
        for _ in range(options.repeat):
            for command in COMMANDS:
                runs.setdefault(command, []).append(measure(command))
    load = os.getloadavg()[0]
    print(f"{options.nodes} nodes, {os.cpu_count()} cores, load {load:.1f}, {options.repeat} runs")
    print("\n".join(table(runs)))


if __name__ == "__main__":
    main()
