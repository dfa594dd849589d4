"""Seconds of a training step with an evaluation on the same machine, and without.

    python -m benchmarks.eval_beside [--rounds 5] [--seconds 20]

One rank trains steps of one size on the first core. A real `soractl eval`, with its sampler, works
on another core without a pause, as on a spare GPU of a node; it is stopped and continued in turns.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.eval_latency import PROMPTS, TINY
from tests.kills.eval_kills import publish_again
from tests.making import publish_random_weights
from trainer.atomic_files import write_json
from trainer.config import load_stage
from trainer.data import smoke_clips
from trainer.run_dir import RunDir, create_run
from trainer.settings import dump

REPOSITORY = Path(__file__).parent.parent
GIVE_UP_S = 180.0
CHECKPOINTS = 150  # more than are sampled
SETTINGS = (
    "epochs=1000",
    "buckets.frames=[17]",
    "buckets.batch_size={144p=[1],240p=[1]}",
    "buckets.keep={144p=[1.0],240p=[0.0]}",
    "data.workers=0",
    "checkpoint.every_steps=1000000",
    "log.wandb=false",
    "log.tensorboard=false",
)


def training_of(root: Path) -> RunDir:
    """A run that trains one clip again and again."""
    smoke_clips.make(root / "data")
    run = create_run(root / "runs", "smoke")
    run.run_json.write_text("{}")
    settings = [f"data.path={root / 'data' / 'one-clip.csv'}", *SETTINGS]
    for path in (run.config_json, run.new_attempt().config_json):
        write_json(path, dump(load_stage("smoke", settings).config))
    return run


def evaluated_of(root: Path) -> RunDir:
    """A run with checkpoints to sample for as long as it takes."""
    run = create_run(root / "runs", "smoke")
    run.run_json.write_text("{}")
    first = publish_random_weights(run, "log.wandb=false")
    for step in range(2, CHECKPOINTS):
        publish_again(run, first, step)
    (root / "tiny.toml").write_text(TINY)
    (root / "prompts.txt").write_text(PROMPTS)
    return run


@contextmanager
def on_core(core: int, words: Sequence[str], folder: Path, name: str) -> Iterator[int]:
    """A Python program and its children on one core, killed in the end; its process group."""
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with (folder / name).open("wb") as log:
        program = subprocess.Popen(
            ["taskset", "-c", str(core), sys.executable, *words],
            cwd=folder,
            env=environ,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield program.pid
    finally:
        send(program.pid, signal.SIGKILL)
        program.wait()


def send(program: int, number: int) -> None:
    """A signal for a program and all that it has started, sessions of their own included."""
    first = psutil.Process(program)
    for process in (first, *first.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def rows(run: RunDir) -> list[float]:
    """Seconds of each step so far."""
    if not run.metrics.exists():
        return []
    lines = run.metrics.read_text().split("\n")[:-1]  # the last may be half written
    return [float(json.loads(line)["s_per_step"]) for line in lines]


def wait_until(what: str, is_so: bool, began_s: float) -> bool:
    """False while it is not so; the benchmark ends where that takes too long."""
    assert time.monotonic() - began_s < GIVE_UP_S, what
    time.sleep(0 if is_so else 0.2)
    return is_so


def block(run: RunDir, seconds: float) -> list[float]:
    """Seconds of the steps that began and ended within the next seconds."""
    before = len(rows(run))
    time.sleep(seconds)
    return rows(run)[before + 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing stays behind
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        run, evaluated = training_of(root), evaluated_of(root)
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")
        train = (*torchrun, str(REPOSITORY / "trainer" / "train.py"), str(run.path))
        sample = ("-m", "soractl.cli", "eval", "2", "--prompts=prompts.txt", "--preset=tiny.toml")
        with (
            on_core(0, train, root, "train.log"),
            on_core(1, sample, root, "eval.log") as evaluation,
        ):
            began_s = time.monotonic()
            while not wait_until("training", len(rows(run)) > 5, began_s):
                pass
            while not wait_until("eval", bool(evaluated.evaluation_results()), began_s):
                pass
            found: dict[bool, list[float]] = {True: [], False: []}
            ratios = []
            for _ in range(options.rounds):
                of_round = {}
                for beside in (True, False):
                    send(evaluation, signal.SIGCONT if beside else signal.SIGSTOP)
                    of_round[beside] = block(run, options.seconds)
                    found[beside] += of_round[beside]
                ratios.append(
                    statistics.median(of_round[True]) / statistics.median(of_round[False])
                )
        sampled = len(evaluated.evaluation_results())
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {sampled} checkpoints sampled")
    for beside, title in ((True, "beside an evaluation"), (False, "alone")):
        steps = found[beside]
        print(f"{title}: median {statistics.median(steps):.4f} s a step, n = {len(steps)}")
    spread = ", ".join(f"{100 * (ratio - 1):+.2f}" for ratio in ratios)
    print(f"slower by {100 * (statistics.median(ratios) - 1):+.2f} % (rounds: {spread})")


if __name__ == "__main__":
    main()
