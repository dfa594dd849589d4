"""`python -m tests.night.night [--seed N] [--faults K] [--short]`: a supervised run that is broken.

Three nodes of tests/cluster, the smoke model, one rank a node. Faults are drawn by the seed; each
comes when the run trains. In the end the planned step must be reached with exit code 0, every step
be in metrics.jsonl once, and the events tell of each fault that ended an attempt.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from soractl.runs.events import read_events
from soractl.supervise.lease import read_holder
from tests.night.faults import Fault, draw
from trainer.run_dir import RunDir

REPOSITORY = Path(__file__).parent.parent.parent
CLUSTER_SH = REPOSITORY / "tests" / "cluster" / "cluster.sh"
START_S = 400.0
ENDS = {"hung", "crashed", "lost"}
SETTINGS = ("log.every_steps=1", "checkpoint.every_steps=4", "epochs=500", "log.tensorboard=false")


class Night:
    """One run on a cluster of its own, and all that breaks it."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        self.run = RunDir(folder / "runs" / "001-smoke")
        self._environ = {**os.environ, "SORACTL_CLUSTER": str(folder / "cluster")}

    def __enter__(self) -> "Night":
        self.cluster("up", "3")
        toml = self.folder / "cluster" / "hostfiles" / "nodes.toml"
        text = toml.read_text().replace("ranks_per_node = 2", "ranks_per_node = 1")
        toml.write_text(f"{text}[supervise]\nmin_nodes = 2\nmost_starts = 50\n")
        return self

    def __exit__(self, *error: object) -> None:
        self.cluster("down")

    def cluster(self, *argv: str) -> str:
        """`cluster.sh ARGV`: its output."""
        done = subprocess.run(
            [str(CLUSTER_SH), *argv],
            env=self._environ,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def soractl(self, *argv: str) -> str:
        """A command on the head node."""
        runs = ("--runs", str(self.run.path.parent))
        return self.cluster("head", sys.executable, "-m", "soractl.cli", *argv, *runs)

    def on_node(self, number: int, script: str, *argv: str) -> None:
        """A script on a node, without ssh."""
        self.cluster("node", str(number), "bash", "-c", script, "bash", *argv)

    def wait(self, condition: Callable[[], bool], seconds: float) -> None:
        """Until a condition holds; AssertionError with the last events when it never does."""
        end = time.monotonic() + seconds
        while not condition():
            last = [f"{e.kind} {e.node or ''} {e.text}" for e in read_events(self.run)[-6:]]
            assert time.monotonic() < end, "\n".join(["waited in vain; the last events:", *last])
            time.sleep(0.2)

    def holder(self) -> str | None:
        """The token of the supervisor that acts."""
        holder = read_holder(self.run.supervisor)
        return holder.token if holder else None

    def step(self) -> tuple[int, int]:
        """Attempt and step of the last heartbeat; (0, 0) before the first."""
        try:
            beat = json.loads(self.run.heartbeat.read_text())
        except (OSError, ValueError):
            return 0, 0
        return int(beat["attempt"]), int(beat["global_step"])

    def newest(self) -> int:
        """Step of the newest complete checkpoint."""
        return max(self.run.steps_of_saves()[1], default=0)

    def trains(self, attempt: int) -> None:
        """Wait until an attempt, or a later one, has saved and made a step since.

        A run that fails before its next checkpoint three times would be given up.
        """
        self.wait(lambda: self.step()[0] >= attempt, START_S)
        begun = self.step()[1]
        self.wait(lambda: self.newest() > begun and self.step()[1] > self.newest(), START_S)

    def suffer(self, fault: Fault, number: int) -> None:
        """One fault, until the run trains again."""
        attempt, step = self.step()
        known = len(read_events(self.run))
        began = time.monotonic()
        fault.inject(self, number)
        time.sleep(fault.lasts_s)
        if fault.heal:
            fault.heal(self, number)
        if fault.ends_attempt:
            self.wait(lambda: bool(ENDS & {e.kind for e in read_events(self.run)[known:]}), START_S)
            detected_s = time.monotonic() - began
            self.trains(attempt + 1)
        else:
            detected_s = 0.0
            self.trains(attempt)
        since = read_events(self.run)[known:]
        kinds = [event.kind for event in since if event.kind in ENDS | {"killed", "restarted"}]
        self.say(
            f"{fault.name} on n{number} at step {step}: {', '.join(kinds) or 'nothing was done'}"
            f" ({f'seen after {detected_s:.0f} s, ' if detected_s else ''}"
            f"{time.monotonic() - began:.0f} s until it trained again)"
        )
        if fault.ends_attempt:
            assert kinds[1:3] == ["killed", "restarted"], kinds
        else:
            assert not kinds, kinds


def spend(seed: int, count: int, *, short: bool, say: Callable[[str], None]) -> None:
    """A night with so many faults; AssertionError when something is not as it must be."""
    drawn = draw(seed, count, short=short)
    planned = 8 * len(drawn) + 10
    with tempfile.TemporaryDirectory(prefix="night-") as name, Night(Path(name), say) as night:
        settings = [f"trainer.max_steps={planned}", *SETTINGS]
        night.soractl(
            *("launch", "smoke", "--supervise", "--detach"),
            *(word for setting in settings for word in ("--set", setting)),
        )
        night.trains(1)
        for fault, number in drawn:
            night.suffer(fault, number)
        night.wait(lambda: has_left(night.run), 1200)
        check(night.run, planned)
        say(night.soractl("report"))


def has_left(run: RunDir) -> bool:
    """The supervisor has left."""
    holder = read_holder(run.supervisor)
    return bool(holder and holder.ended)


def check(run: RunDir, planned: int) -> None:
    """The planned step, exit code 0, each step once."""
    holder = read_holder(run.supervisor)
    assert holder is not None
    assert holder.state == "finished", holder
    assert json.loads(run.attempts()[-1].exit.read_text())["exit_code"] == 0
    steps = [json.loads(line)["global_step"] for line in run.metrics.read_text().splitlines()]
    assert steps == list(range(1, planned + 1))
    assert run.checkpoints()[-1].manifest.global_step == planned


def main(argv: Sequence[str] | None = None) -> None:
    """Spend a night as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=12)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args(argv)
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:6.0f} s  {line}\n")
        sys.stdout.flush()

    spend(options.seed, options.faults, short=options.short, say=say)


if __name__ == "__main__":
    main()
