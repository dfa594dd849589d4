"""`soractl gpus` on 24 nodes and `soractl data info` beside those of another checkout, in turns.

    git worktree add /tmp/before COMMIT
    python benchmarks/before.py /tmp/before --rounds 9

Medians of wall clock and client CPU (all processes but the nodes'), and the ratio of this checkout
to the other. Both run with the libraries of the Python that runs this. Needs root for the nodes,
and a machine on which nothing else runs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fanout
from fanout import REPOSITORY, Run, Tool

NODES, CLIPS = 24, 200
FILM = "-f lavfi -i testsrc2=s=320x180:r=25:d=4 -c:v libx264 -g 25"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, nargs="?", help="a checkout of another commit")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if options.before is None or os.geteuid() != 0:
        print("benchmarks/before.py: left out, it needs another checkout, and root for the nodes")
        return
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # one side would be compiled each time
    os.environ["SORACTL_CLUSTER"] = str(fanout.STATE)
    roots = {"before": options.before.absolute(), "now": REPOSITORY}
    hostfile = str(fanout.STATE / "hostfiles" / "nodes.txt")
    print(f"load {os.getloadavg()[0]:.1f}; first rounds do not count")
    with fanout.cluster(NODES):
        commands = {side: gpus(root, hostfile) for side, root in roots.items()}
        compare(f"gpus, {NODES} nodes", commands, measure_gpus, options.rounds)
    with tempfile.TemporaryDirectory(prefix="soractl-before-") as folder:
        table = make_clips(Path(folder))
        commands = {side: info(root, table) for side, root in roots.items()}
        compare(f"data info, {CLIPS} clips", commands, measure, options.rounds)


def gpus(root: Path, hostfile: str) -> tuple[str, ...]:
    return (*soractl(root), "gpus", hostfile)


def info(root: Path, table: Path) -> tuple[str, ...]:
    out = table.with_name(f"out-{root.name}.csv")
    words = ("data", "info", str(table), "--out", str(out))
    return ("sh", "-c", f'rm -f {out}*; exec "$@"', "sh", *soractl(root), *words)


def soractl(root: Path) -> tuple[str, ...]:
    return ("env", "-C", str(root), f"PYTHONPATH={root}", sys.executable, "-m", "soractl.cli")


def make_clips(folder: Path) -> Path:
    """A table of files that are one ordinary film under many names."""
    film = folder / "0.mp4"
    subprocess.run(["ffmpeg", "-v", "error", *FILM.split(), str(film)], check=True)
    for number in range(1, CLIPS):
        (folder / f"{number}.mp4").hardlink_to(film)
    table = folder / "clips.csv"
    rows = (f"{folder}/{number}.mp4,a pattern\n" for number in range(CLIPS))
    table.write_text("path,text\n" + "".join(rows))
    return table


def measure_gpus(command: tuple[str, ...]) -> Run:
    run = fanout.measure(Tool("gpus", command))
    assert run.nodes == NODES, f"{run.nodes} of {NODES} nodes in the output"
    return run


def measure(command: tuple[str, ...]) -> Run:
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = Run(*fanout.spent(process, started), 0)
    assert process.returncode == 0, f"ended with {process.returncode}"
    return run


def compare(
    name: str,
    commands: dict[str, tuple[str, ...]],
    measured: Callable[[tuple[str, ...]], Run],
    rounds: int,
) -> None:
    """Prints both sides' medians, and now to before."""
    runs: dict[str, list[Run]] = {side: [] for side in commands}
    for number in range(rounds + 1):
        for side in sorted(commands, reverse=number % 2 == 0):
            runs[side].append(measured(commands[side]))
    walls = {side: statistics.median(run.wall_s for run in its[1:]) for side, its in runs.items()}
    cpus = {side: statistics.median(run.cpu_s for run in its[1:]) for side, its in runs.items()}
    for side in commands:
        print(f"{name}, {side}: wall {walls[side]:.2f} s, client CPU {cpus[side]:.2f} s")
    wall, cpu = (its["now"] / its["before"] for its in (walls, cpus))
    print(f"{name}: wall {wall:.2f} times, client CPU {cpu:.2f} times", flush=True)


if __name__ == "__main__":
    main()
