"""Seconds until 24 and 64 nodes answer: `soractl gpus` beside two ssh a node, pdsh, clush, pssh.

All take turns on one namespace cluster (tests/cluster), whose stand-in nvidia-smi prints eight
H100s. Needs root; a tool that is not installed is left out and named.
"""

import argparse
import datetime
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
CLUSTER_SH = REPOSITORY / "tests" / "cluster" / "cluster.sh"
STATE = Path(f"/tmp/soractl-fanout-{os.getpid()}")
GPUS = "--query-gpu=index,name,utilization.gpu,memory.used,memory.total,power.draw,temperature.gpu"
APPS = "--query-compute-apps=pid,gpu_uuid,used_memory,process_name"
BOTH = f"nvidia-smi {GPUS} --format=csv,noheader; nvidia-smi {APPS} --format=csv,noheader"
DEADLINE_S = 10
WATCHED_S = 20  # how long a tool is watched when nodes are bad


@dataclass(frozen=True)
class Tool:
    name: str
    argv: tuple[str, ...]
    missing: str = ""  # why it cannot run here


@dataclass(frozen=True)
class Run:
    wall_s: float
    cpu_s: float
    nodes: int  # named in the output


def tools() -> list[Tool]:
    """What is compared; each prints something about every node of the host file."""
    file = str(STATE / "hostfiles" / "nodes.txt")
    lacking = {name: "" if shutil.which(name) else "not installed" for name in ("pdsh", "clush")}
    pssh = "" if find_spec("pssh") else "not installed (pip install parallel-ssh)"
    return [
        Tool("soractl gpus", (sys.executable, "-m", "soractl.cli", "gpus", file)),
        Tool("(a) two ssh a node, default pool", part("reference")),
        Tool("(b) pdsh", ("pdsh", "-R", "ssh", "-w", f"^{file}", BOTH), lacking["pdsh"]),
        Tool("(c) clush", ("clush", f"--hostfile={file}", BOTH), lacking["clush"]),
        Tool("(d) parallel-ssh", part("parallel_ssh"), pssh),
    ]


def part(name: str) -> tuple[str, ...]:
    """This program in one of the parts below."""
    return (
        sys.executable,
        __file__,
        "--part",
        name,
        "--hostfile",
        str(STATE / "hostfiles" / "nodes.txt"),
    )


def play_soractl(hostfile: Path) -> None:
    """Every node once, its row as it comes, then five more times on the warm connections."""
    from soractl.cluster.gpus import NodeGpus, read_gpus
    from soractl.remote.connections import Connections
    from soractl.remote.nodes import read_hostfile

    def show(row: NodeGpus) -> None:
        print(row.node.name, row.fault or [gpu["power_w"] for gpu in row.gpus], flush=True)

    nodes = read_hostfile(hostfile)
    with Connections() as remote:
        read_gpus(nodes, remote, deadline_s=DEADLINE_S, on_result=show)
        for _ in range(5 if "WARM" in os.environ else 0):
            started = time.perf_counter()
            read_gpus(nodes, remote, deadline_s=DEADLINE_S)
            print(f"warm {time.perf_counter() - started:.4f}", flush=True)


def play_reference(hostfile: Path) -> None:
    """The tutorial's way: processes, then power, each by an ssh of its own, without a limit."""

    def ask(node: str) -> str:
        answers = [
            subprocess.run(
                ["ssh", node, f"nvidia-smi {query} --format=csv,noheader"],
                capture_output=True,
                text=True,
                check=False,
            ).stdout
            for query in (APPS, "--query-gpu=power.draw")
        ]
        return f"{node} {len(answers[0].splitlines())} processes {answers[1].split()}"

    with ThreadPoolExecutor() as pool:
        lines = list(pool.map(ask, hostfile.read_text().split()))
    print("\n".join(lines))  # as there, when the last node has answered


def play_parallel_ssh(hostfile: Path) -> None:
    """All nodes through libssh2 and gevent, in one process."""
    from pssh.clients import ParallelSSHClient

    nodes = hostfile.read_text().split()
    client = ParallelSSHClient(nodes, pool_size=len(nodes))
    for answer in client.run_command(BOTH):
        print(answer.host, list(answer.stdout), flush=True)


PARTS: dict[str, Callable[[Path], None]] = {
    "soractl": play_soractl,
    "reference": play_reference,
    "parallel_ssh": play_parallel_ssh,
}


@contextmanager
def cluster(size: int) -> Iterator[None]:
    cluster_sh("up", str(size))
    try:
        yield
    finally:
        cluster_sh("down")


def cluster_sh(*argv: str) -> None:
    subprocess.run([CLUSTER_SH, *argv], check=True, stdout=subprocess.DEVNULL)


def on_head(argv: tuple[str, ...]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(CLUSTER_SH), "head", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def measure(tool: Tool) -> Run:
    """One run of a tool: wall clock, and CPU time of it and its children, not of the nodes."""
    started = time.perf_counter()
    process = on_head(tool.argv)
    output = process.stdout.read()
    nodes = set(re.findall(r"\bn[0-9]+\b", output))
    return Run(*spent(process, started), len(nodes))


def spent(process: "subprocess.Popen[Any]", started: float) -> tuple[float, float]:
    """Wall clock until a process has ended, and CPU time of it and its children, in seconds."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def compare(size: int, repeat: int) -> None:
    """One table: medians of runs that took turns, and how many times slower than ours."""
    runs: dict[str, list[Run]] = {}
    chosen = [tool for tool in tools() if not tool.missing]
    with cluster(size):
        for _ in range(repeat):
            for tool in chosen:
                runs.setdefault(tool.name, []).append(measure(tool))
        warm = warm_refresh()
    print(f"\n{size} nodes, medians of {repeat} (fastest - slowest)\n")
    print("| tool | wall s | x | client CPU s | x | nodes |\n|---|---|---|---|---|---|")
    ours = runs["soractl gpus"]
    for name, its in runs.items():
        wall, cpu = median(run.wall_s for run in its), median(run.cpu_s for run in its)
        spread = f"{min(run.wall_s for run in its):.2f} - {max(run.wall_s for run in its):.2f}"
        print(
            f"| {name} | {wall:.2f} ({spread}) | {wall / median(r.wall_s for r in ours):.1f}"
            f" | {cpu:.2f} | {cpu / median(r.cpu_s for r in ours):.1f}"
            f" | {min(run.nodes for run in its)} |"
        )
    print(f"| refresh on warm connections | {median(warm):.2f} | | | | {size} |")


def warm_refresh() -> list[float]:
    process = on_head(("env", "WARM=1", *part("soractl")))
    output, _ = process.communicate()
    return [float(line.split()[1]) for line in output.splitlines() if line.startswith("warm")]


def with_bad_nodes(size: int) -> None:
    """When the rows come if one node drops packets, one is mute, and one's nvidia-smi hangs."""
    print(f"\n{size} nodes, of which one drops all packets, one takes connections and is mute,")
    print(f"and the nvidia-smi of one hangs; watched for {WATCHED_S} s\n")
    print("| tool | good rows | the last good one after s | end after s |\n|---|---|---|---|")
    with cluster(size):
        cluster_sh("lose", "3")
        cluster_sh("freeze", "5")
        (STATE / "gpus" / "n7").mkdir(parents=True)
        (STATE / "gpus" / "n7" / "delay").write_text("600")
        for name in ("soractl", "reference"):
            times, end = watch(name, bad={"n3", "n5", "n7"})
            last = f"{max(times):.2f}" if times else "-"
            ended = f"{end:.2f}" if end < WATCHED_S else "still running"
            print(f"| {name} | {len(times)} | {last} | {ended} |")


def watch(name: str, bad: set[str]) -> tuple[list[float], float]:
    started = time.perf_counter()
    process = on_head(("timeout", "-k", "1", str(WATCHED_S), *part(name)))
    times = [time.perf_counter() - started for line in process.stdout if line.split()[0] not in bad]
    process.wait()
    return times, time.perf_counter() - started


def median(values: Iterator[float] | list[float]) -> float:
    return statistics.median(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[24, 64])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--hostfile", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        PARTS[options.part](options.hostfile)
        return
    if os.geteuid() != 0:
        print("benchmarks/fanout.py: left out, only root can start the cluster")
        return
    os.environ["SORACTL_CLUSTER"] = str(STATE)
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, Python {platform.python_version()},")
    print(subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr.strip())
    for tool in tools():
        if tool.missing:
            print(f"{tool.name}: left out, {tool.missing}")
    for size in options.nodes:
        compare(size, options.repeat)
    with_bad_nodes(options.nodes[0])


if __name__ == "__main__":
    main()
