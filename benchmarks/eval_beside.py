"""Seconds of a training step with an evaluation on the same machine, and without.

    python -m benchmarks.eval_beside [--elsewhere] [--rounds 5] [--seconds 20]

One rank trains steps of one size on the first core. A real `soractl eval`, with its sampler, works
on the second without a pause, as on a spare GPU of a node; it is stopped and continued in turns.

With `--elsewhere` they are on two of three nodes of tests/cluster that share no folder: checkpoints
are copied and results sent back over ssh, and what serves that on the training's node (sshd, rsync)
has to share the training's core; its processor time is shown, which other load does not change.
Both modes share this machine's caches and memory.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.eval_latency import PROMPTS, TINY
from benchmarks.fanout import CLUSTER_SH, cluster, cluster_sh
from tests.making import publish_again, publish_random_weights
from trainer.atomic_files import write_json
from trainer.config import load_stage
from trainer.data import smoke_clips
from trainer.run_dir import RunDir, create_run
from trainer.settings import dump

REPOSITORY = Path(__file__).parent.parent
GIVE_UP_S = 300.0
CHECKPOINTS = 150  # more than are sampled
COPIES = 50  # of a short table: the end of an epoch saves a checkpoint
FIRST_STEPS = 5  # of the training, before anything is measured
TORCHRUN = (
    *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"),
    str(REPOSITORY / "trainer" / "train.py"),
)
EVAL = (
    *("-m", "soractl.cli", "eval", "2", "--prompts=prompts.txt", "--preset=tiny.toml"),
    "--every=1",
)
NODES = 3
TRAINING, EVALUATION = 1, 2  # nodes, each on a core of its own
FIRST_LINES = 30  # of a log, where a program does not work
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
    header, *clips = (root / "data" / "one-clip.csv").read_text().splitlines(keepends=True)
    table = root / "data" / "long.csv"
    table.write_text(header + "".join(clips * COPIES))
    run = create_run(root / "runs", "smoke")
    run.run_json.write_text("{}")
    settings = [f"data.path={table}", *SETTINGS]
    attempt = run.new_attempt()
    write_json(attempt.plan, {"start": {"kind": "fresh"}})
    for path in (run.config_json, attempt.config_json):
        write_json(path, dump(load_stage("smoke", settings).config))
    return run


def evaluated_of(there: Path, here: Path) -> RunDir:
    """A run with checkpoints to sample for as long as it takes, and how to, in `here`."""
    run = create_run(there / "runs", "smoke")
    run.run_json.write_text("{}")
    first = publish_random_weights(run, "log.wandb=false")
    for step in range(2, CHECKPOINTS):
        publish_again(run, first, step)
    here.mkdir()
    (here / "tiny.toml").write_text(TINY)
    (here / "prompts.txt").write_text(PROMPTS)
    return run


@dataclass(frozen=True)
class Core:
    """One core for a program and its children: of this machine, or of one of its nodes."""

    number: int
    folder: Path
    node: int | None = None

    @contextmanager
    def running(self, words: Sequence[str], log: Path) -> Iterator[int]:
        """A Python program, killed in the end; its process."""
        environ = ("PYTHONPATH", REPOSITORY), ("OMP_NUM_THREADS", "1"), ("SORACTL_HOSTFILE", "")
        where = [str(CLUSTER_SH), "node", str(self.node)] if self.node else []
        wanted = ["env", *(f"{name}={value}" for name, value in environ)]
        pinned = ["taskset", "-c", str(self.number), sys.executable]
        with log.open("wb") as output:
            program = subprocess.Popen(
                [*where, *wanted, *pinned, *words],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
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


def wait_for(happened: Callable[[], bool], program: int, log: Path) -> None:
    """Return once it has; the benchmark ends where the program does, or where that takes long."""
    began_s = time.monotonic()
    while not happened():
        waited_s = time.monotonic() - began_s
        has_ended = psutil.Process(program).status() == psutil.STATUS_ZOMBIE
        if has_ended or waited_s > GIVE_UP_S:
            begins = "\n".join(log.read_text().splitlines()[:FIRST_LINES])
            sys.exit(f"nothing after {waited_s:.0f} s; {log.name} begins:\n{begins}")
        time.sleep(0.2)


def block(run: RunDir, seconds: float) -> list[float]:
    """Seconds of the steps that began and ended within the next seconds."""
    before = len(rows(run))
    time.sleep(seconds)
    return rows(run)[before + 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--elsewhere", action="store_true", help="on another node; needs root")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing stays behind
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        there, here = Path(name) / "there", Path(name) / "here"
        run, evaluated = training_of(there), evaluated_of(there, here)
        train, sample = Core(0, there), Core(1, here)
        origin = ["--runs", str(there / "runs")]
        if options.elsewhere:
            os.environ["SORACTL_CLUSTER"] = str(Path(name) / "cluster")
            stack.enter_context(cluster(NODES))
            cluster_sh("node", str(EVALUATION), "mount", "-t", "tmpfs", "tmpfs", str(there))
            cluster_sh("node", str(TRAINING), "taskset", "-cp", "0", "1")  # its sshd
            train, sample = Core(0, there, TRAINING), Core(1, here, EVALUATION)
            origin = ["--from", f"n{TRAINING}:{there / 'runs'}"]
        training, evaluation = there / "train.log", here / "eval.log"
        trainer = stack.enter_context(train.running([*TORCHRUN, str(run.path)], training))
        program = stack.enter_context(sample.running([*EVAL, *origin], evaluation))
        wait_for(lambda: len(rows(run)) > FIRST_STEPS, trainer, training)
        wait_for(lambda: bool(evaluated.evaluation_results()), program, evaluation)
        before, spent_s, began_s = len(evaluated.evaluation_results()), served_s(), time.monotonic()
        report(run, lambda number: send(program, number), options.rounds, options.seconds)
        sampled = len(evaluated.evaluation_results()) - before
        print(f"{sampled} checkpoints sampled meanwhile")
        if options.elsewhere:
            spent_s, seconds = served_s() - spent_s, time.monotonic() - began_s
            each = f", {1000 * spent_s / sampled:.0f} ms a checkpoint" if sampled else ""
            of_time = f"{100 * spent_s / seconds:.2f} % of a core"
            print(f"the training's node served it for {spent_s:.2f} s{each}, {of_time}")


def served_s() -> float:
    """Processor seconds of the sshd of the training's node and of its children that ended; else 0.

    It is the node's first process; fields 14 to 17 of its stat are these.
    """
    if "SORACTL_CLUSTER" not in os.environ:
        return 0.0
    words = [str(CLUSTER_SH), "node", str(TRAINING), "cat", "/proc/1/stat"]
    stat = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    ticks = stat.rpartition(")")[2].split()[11:15]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def report(run: RunDir, to_evaluation: Callable[[int], None], rounds: int, seconds: float) -> None:
    """Steps beside an evaluation and without one, in turns."""
    found: dict[bool, list[float]] = {True: [], False: []}
    ratios = []
    for _ in range(rounds):
        of_round = {}
        for beside in (True, False):
            to_evaluation(signal.SIGCONT if beside else signal.SIGSTOP)
            of_round[beside] = block(run, seconds)
            found[beside] += of_round[beside]
        ratios.append(statistics.mean(of_round[True]) / statistics.mean(of_round[False]))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for beside, title in ((True, "beside an evaluation"), (False, "alone")):
        steps = found[beside]
        middle, mean = statistics.median(steps), statistics.mean(steps)
        print(f"{title}: median {middle:.4f} s, mean {mean:.4f} s a step, n = {len(steps)}")
    spread = ", ".join(f"{100 * (ratio - 1):+.2f}" for ratio in ratios)
    slower = f"{100 * (statistics.median(ratios) - 1):+.2f}"
    print(f"slower by {slower} % (means of the rounds: {spread})")


if __name__ == "__main__":
    main()
