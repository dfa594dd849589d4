"""Seconds from a checkpoint's manifest to its first video in the gallery, without its sampling.

    python benchmarks/eval_latency.py [--checkpoints 10] [--seed 1]

A real `soractl eval` samples four videos of random weights from each checkpoint, on the CPU.
Checkpoints are published at random moments; the gallery's data is read again and again.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.kills.eval_kills import publish_again
from tests.making import publish_random_weights
from trainer.atomic_files import read_json
from trainer.run_dir import RunDir, create_run

TINY = 'frames = "17"\nresolution = "144p"\nratio = "9:16"\nsteps = 1\n'
PROMPTS = "a cat\na dog\na hen\nwaves\n"
GIVE_UP_S = 300.0
LOOK_S = 0.05


def shown(run: RunDir, step: int) -> str | None:
    """The name of a video of this step in the gallery."""
    try:
        page = json.loads(run.gallery_data.read_text()[len("showGallery(") : -3])
    except FileNotFoundError:
        return None
    for column in page["runs"][0]["presets"].get("tiny", {}).get("checkpoints", ()):
        if column["step"] == step:
            return next((str(video[0]) for video in column["videos"] if video), None)
    return None


def latency_s(run: RunDir, step: int, published_s: float) -> float:
    """Seconds since then until the first video is shown, less those of its own sampling."""
    while (name := shown(run, step)) is None:
        assert time.monotonic() - published_s < GIVE_UP_S, f"step {step} is not shown"
        time.sleep(LOOK_S)
    took_s = time.monotonic() - published_s
    manifest = run.evaluation("tiny", step) / Path(name).with_suffix(".json")
    return took_s - float(read_json(manifest)["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draws = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = create_run(folder / "runs", "smoke")
        run.run_json.write_text("{}")
        first = publish_random_weights(run, "log.wandb=false")
        (folder / "tiny.toml").write_text(TINY)
        (folder / "prompts.txt").write_text(PROMPTS)
        command = [sys.executable, "-m", "soractl.cli", "eval", "1", "--prompts", "prompts.txt"]
        program = subprocess.Popen(
            [*command, "--preset", "tiny.toml"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            begun_s = latency_s(run, 1, time.monotonic())  # with the start of two programs
            found = []
            for step in range(2, options.checkpoints + 2):
                while not run.evaluation_result("tiny", step - 1).exists():
                    time.sleep(LOOK_S)
                time.sleep(draws.uniform(0, 5))
                publish_again(run, first, step)
                found.append(latency_s(run, step, time.monotonic()))
        finally:
            program.kill()
            program.wait()
    print(f"load {os.getloadavg()[0]:.1f}, first checkpoint with the start {begun_s:.1f} s")
    print(
        f"manifest to first video without its sampling: median {statistics.median(found):.1f} s, "
        f"most {max(found):.1f} s, n = {len(found)}"
    )


if __name__ == "__main__":
    main()
