"""Seconds from a checkpoint's manifest to its first video in the gallery, part by part.

    python -m benchmarks.eval_latency [--checkpoints 10] [--seed 1] [--only here|elsewhere]

A real `soractl eval` samples four videos of random weights from each checkpoint, on the CPU: first
of a run in its own folder, then of one on another of two nodes of tests/cluster that share no
folder (needs root), where checkpoints are copied and what was made of them goes back. Checkpoints
are published at random moments. What appears in the folders is looked for again and again.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fanout import CLUSTER_SH, REPOSITORY, cluster, cluster_sh
from tests.making import publish_again, publish_random_weights
from trainer.atomic_files import read_json
from trainer.checkpoint_dir import Checkpoint
from trainer.manifest import checkpoint_name
from trainer.run_dir import RunDir, create_run

TINY = 'frames = "17"\nresolution = "144p"\nratio = "9:16"\nsteps = 1\n'
PROMPTS = "a cat\na dog\na hen\nwaves\n"
GIVE_UP_S = 300.0
LOOK_S = 0.02
TRAINING, EVALUATION = 1, 2  # nodes
SAMPLING = "its own sampling"

Parts = Mapping[str, float]  # seconds by name, in their order


@dataclass(frozen=True)
class Place:
    """An evaluation at work: the run itself, and the folder of it that `eval` reads."""

    title: str
    run: RunDir
    copy: RunDir

    @property
    def is_copied(self) -> bool:
        """The two are on different nodes."""
        return self.run != self.copy

    def parts(self, name: str, step: int, published_s: float) -> Parts:
        """Seconds of each part of the way of a checkpoint that was published just then."""
        incoming = self.copy.checkpoints_folder / f".incoming-{name}"
        copied = self.copy.checkpoints_folder / name
        ways: dict[str, Callable[[], bool]] = {}
        if self.is_copied:
            ways["until the copy begins"] = lambda: incoming.exists() or copied.exists()
            ways["copy and checksums"] = copied.exists
        ways["until its turn"] = self.copy.evaluation("tiny", step).exists
        ways["first video in the gallery here"] = lambda: shown(self.copy, step) is not None
        if self.is_copied:
            ways["first video in the run's own gallery"] = lambda: shown(self.run, step) is not None
        moments = {}
        for what, happened in ways.items():
            while not happened():
                assert time.time() - published_s < GIVE_UP_S, f"step {step}: nothing {what}"
                time.sleep(LOOK_S)
            moments[what] = time.time()
        return self._in_parts(moments, step, published_s)

    def _in_parts(self, moments: dict[str, float], step: int, published_s: float) -> Parts:
        """Seconds between the moments, and between them the weights and the first video's own."""
        manifest = self.copy.evaluation("tiny", step) / Path(shown(self.copy, step) or "")
        manifest = manifest.with_suffix(".json")
        made_s = manifest.stat().st_mtime
        sampled_s = float(read_json(manifest)["seconds"])
        moments["plan, weights"], moments[SAMPLING] = made_s - sampled_s, made_s
        found, before_s = {}, published_s
        for what, moment in sorted(moments.items(), key=lambda one: one[1]):
            found[what] = moment - before_s
            before_s = moment
        return found


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


@contextmanager
def evaluation(folder: Path, is_elsewhere: bool) -> Iterator[tuple[Place, Checkpoint]]:
    """`eval` at work on a run, here or on another node, and the run's first checkpoint."""
    there, here = folder / "there", folder / "here"
    here.mkdir(parents=True)
    run = create_run(there / "runs", "smoke")
    run.run_json.write_text("{}")
    first = publish_random_weights(run, "log.wandb=false")
    (here / "tiny.toml").write_text(TINY)
    (here / "prompts.txt").write_text(PROMPTS)
    command = [sys.executable, "-m", "soractl.cli", "eval", "1", "--prompts=prompts.txt"]
    command.append("--preset=tiny.toml")
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SORACTL_HOSTFILE": ""}
    with ExitStack() as stack:
        if is_elsewhere:
            os.environ["SORACTL_CLUSTER"] = environ["SORACTL_CLUSTER"] = str(folder / "cluster")
            stack.enter_context(cluster(2))
            cluster_sh("node", str(EVALUATION), "mount", "-t", "tmpfs", "tmpfs", str(there))
            node = [str(CLUSTER_SH), "node", str(EVALUATION), "env", "OMP_NUM_THREADS=1"]
            node += [f"PYTHONPATH={REPOSITORY}", "SORACTL_HOSTFILE="]
            command = [*node, *command, f"--from=n{TRAINING}:{there / 'runs'}"]
            place = Place("on another node", run, RunDir(here / "runs" / run.name))
        else:
            command.append(f"--runs={there / 'runs'}")
            place = Place("in the run's own folder", run, run)
        with (here / "eval.log").open("wb") as log:
            program = subprocess.Popen(command, cwd=here, env=environ, stdout=log, stderr=log)
        try:
            yield place, first
        finally:
            program.kill()
            program.wait()


def measure(place: Place, first: Checkpoint, checkpoints: int, draws: random.Random) -> None:
    """Publish checkpoints, and print the parts of each one's way."""
    begun = place.parts(first.name, 1, time.time())
    found = []
    for step in range(2, checkpoints + 2):
        while not place.run.evaluation_result("tiny", step - 1).exists():
            time.sleep(LOOK_S)
        time.sleep(draws.uniform(0, 10))
        publish_again(place.run, first, step)
        found.append(place.parts(checkpoint_name(0, step), step, time.time()))
    print(f"eval {place.title}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"  the first, with the start of two programs: {without_sampling(begun):.1f} s")
    print(f"  manifest to first video without its sampling, n = {len(found)}: {spread(found)}")
    for what in found[0]:
        seconds = [parts[what] for parts in found]
        print(f"    {what}: median {statistics.median(seconds):.2f} s, most {max(seconds):.2f} s")


def spread(found: list[Parts]) -> str:
    """Median and most of the whole ways."""
    seconds = [without_sampling(parts) for parts in found]
    return f"median {statistics.median(seconds):.1f} s, most {max(seconds):.1f} s"


def without_sampling(parts: Parts) -> float:
    """Seconds of all parts but the first video's own."""
    return sum(seconds for what, seconds in parts.items() if what != SAMPLING)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoints", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("here", "elsewhere"))
    options = parser.parse_args()
    for name in ("here", "elsewhere") if options.only is None else (options.only,):
        draws = random.Random(options.seed)
        with (
            tempfile.TemporaryDirectory() as folder,
            evaluation(Path(folder), name == "elsewhere") as (place, first),
        ):
            measure(place, first, options.checkpoints, draws)


if __name__ == "__main__":
    main()
