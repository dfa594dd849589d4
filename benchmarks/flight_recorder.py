"""Training steps with torch's flight recorder and without it: seconds a step, and losses.

    python -m benchmarks.flight_recorder [--rounds 3] [--steps 60]

The smoke stage trains on two ranks over gloo on this machine, by `soractl launch`, in turn with the
recorder as torch has it (2,000 entries) and without. Nothing else differs, so losses must be equal
bit for bit. The first steps of a run do not count.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from trainer.data import smoke_clips
from trainer.run_dir import RunDir

ENTRIES = {"on": 2000, "off": 0}
WARM_UP = 10
SETTINGS = (
    *("log.every_steps=1", "log.wandb=false", "log.tensorboard=false", "epochs=1000"),
    "checkpoint.every_steps=0",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {platform.release()}, torch {torch.__version__}", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in ENTRIES}
    losses = set()
    with tempfile.TemporaryDirectory() as name:
        smoke_clips.make(Path(name) / "data" / "smoke")
        for number in range(options.rounds):
            # who comes first takes turns too: a machine gets slower or quicker meanwhile
            for recorder in sorted(ENTRIES, reverse=bool(number % 2)):
                lines = train(Path(name), ENTRIES[recorder], options.steps)
                losses.add(tuple(line["loss"] for line in lines))
                took = [line["s_per_step"] for line in lines[WARM_UP:]]
                seconds[recorder] += took
                low, median = min(took), statistics.median(took)
                load = os.getloadavg()[0]
                words = f"median {median:.4f} s a step, least {low:.4f} s, load {load:.1f}"
                print(f"  recorder {recorder:3}: {words}", flush=True)
    for recorder, took in seconds.items():
        median, (low, _, high) = statistics.median(took), statistics.quantiles(took, n=4)
        print(f"{recorder:3}: {median:.4f} s ({low:.4f} to {high:.4f}), {len(took)} steps")
    print(f"losses of all runs are {'equal' if len(losses) == 1 else 'NOT equal'}")


def train(folder: Path, entries: int, steps: int) -> list[dict[str, float]]:
    """The lines of a run's steps."""
    hostfiles = folder / "hostfiles"
    hostfiles.mkdir(exist_ok=True)
    environment = f"[env]\nTORCH_FR_BUFFER_SIZE = {entries}\nOMP_NUM_THREADS = 1\n"
    (hostfiles / "local.toml").write_text(f"ranks_per_node = 2\n{environment}")
    settings = [
        word for one in (*SETTINGS, f"trainer.max_steps={steps}") for word in ("--set", one)
    ]
    command = [sys.executable, "-m", "soractl.cli", "launch", "smoke", *settings]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    run = RunDir(sorted((folder / "runs").glob("0*-smoke"))[-1])
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


if __name__ == "__main__":
    sys.exit(main())
