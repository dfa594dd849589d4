"""Planted hangs in the real trainer under the real launcher; is the guilty rank named?

    python -m tests.planter.campaign [--seed 0] [--hangs 40] [--folder DIR]

Two ranks of the smoke stage over gloo on this machine. Every fault ends by itself, so that one run
serves many. A verdict is right if it names the planted rank, and the collective with its number
where the fault's own count before it tells them.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from soractl.diagnosis.culprit import Verdict, VerdictKind
from soractl.diagnosis.examination import examine
from soractl.remote.connections import Connections
from soractl.runs.record import read_record
from tests.waiting import wait_for
from trainer.data import smoke_clips
from trainer.run_dir import RunDir

REPOSITORY = Path(__file__).parent.parent.parent
KINDS = ("sleep", "gc", "read", "stop", "thread", "spin", "gil")
MUTE = ("gil", "stop")
PHASES = (
    ("start", {"within": "init_process_group"}),
    ("first step", {"within": "TrainStep.run"}),
    *[("step", {})] * 10,
    *[("save", {"thread": "side"})] * 4,
    *[("inside", {"place": "inside", "within": "TrainStep.run"})] * 2,
    *[("validation", {"within": "Validation.losses"})] * 2,
)
MOST_AFTER = {"step": 40, "save": 4, "first step": 3}
LOOK_AGAIN_S = 20.0  # a run that is only slow still moves
LOOK_LONGER_S = 45.0  # ranks that are being loaded, and those that a thread slows down
SLOW_S = 300.0  # a start on a busy machine
STILL_S = 6.0  # without a step, before the ranks are looked at
SETTINGS = (
    *("trainer.collective_timeout_s=600.0", "epochs=1000", "checkpoint.every_steps=4"),
    *("validation.every_steps=6", "validation.clips=2", "log.wandb=false", "log.tensorboard=false"),
    *("buckets.frames=[1,17]", "buckets.batch_size={144p=[1,1],240p=[1,1]}"),
    *("buckets.keep={144p=[1.0,1.0],240p=[0.0,0.0]}", "checkpoint.keep_last=2"),
)


@dataclass(frozen=True)
class Case:
    """One fault: where it is planted, and on which rank."""

    kind: str
    rank: int
    phase: str = "step"
    plan: dict = field(default_factory=dict)

    @property
    def in_the_start(self) -> bool:
        return self.phase in ("start", "first step")


def cases(seed: int, count: int) -> list[Case]:
    """Faults of all kinds and phases, drawn by seed; those in the start come first."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        if not number % len(KINDS):
            kinds = draw.sample(KINDS, len(KINDS))
        phase, plan = PHASES[number % len(PHASES)]
        plan = {**plan, "after": draw.randint(0, MOST_AFTER.get(phase, 0))}
        found.append(Case(kinds[number % len(KINDS)], draw.randrange(2), phase, plan))
    return sorted(found, key=lambda case: not case.in_the_start)


class Campaign:
    """A folder with runs whose ranks have the planter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plants = folder / "plants"
        self.plants.mkdir()
        smoke_clips.make(folder / "data/smoke")
        (folder / "hostfiles").mkdir()
        (folder / "hostfiles/local.toml").write_text(
            f'ranks_per_node = 2\n[env]\nPLANT_FOLDER = "{self.plants}"\nOMP_NUM_THREADS = 1\n'
            f'PYTHONPATH = "{Path(__file__).parent / "hook"}:{REPOSITORY}"\n'
        )
        self.run: RunDir | None = None

    def soractl(self, *words: str) -> str:
        command = [sys.executable, "-m", "soractl.cli", *words]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self) -> None:
        """A new run."""
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        self.soractl("launch", "smoke", "--detach", *settings)
        self.run = RunDir(sorted((self.folder / "runs").glob("0*-smoke"))[-1])

    def stop(self) -> None:
        if self.run:
            self.soractl("kill", self.run.name, "--grace", "0.5")
            self.run = None

    @property
    def step(self) -> int:
        path = self.run.heartbeat
        return json.loads(path.read_text())["global_step"] if path.exists() else 0

    def plant(self, case: Case) -> Path:
        truth = self.plants / f"truth-{case.rank}.json"
        truth.unlink(missing_ok=True)
        seconds = 60 if case.phase in ("start", "save") else 35
        draft = self.plants / "draft"
        draft.write_text(json.dumps({**case.plan, "kind": case.kind, "seconds": seconds}))
        draft.replace(self.plants / f"plant-{case.rank}.json")
        return truth

    def verdict(self, case: Case) -> tuple[Verdict, dict, float]:
        """Plant it, and examine the run once no step has come for a while."""
        if case.in_the_start:
            self.stop()
            truth_file = self.plant(case)
            self.start()
        else:
            if self.run is None:
                self.start()
            wait_for(lambda: self.step >= 2, seconds=SLOW_S)
            truth_file = self.plant(case)
        wait_for(truth_file.exists, seconds=SLOW_S)
        self._wait_until_still()
        began = time.monotonic()
        again_s = LOOK_LONGER_S if case.phase in ("start", "save") else LOOK_AGAIN_S
        attempt = self.run.attempts()[-1]
        with Connections() as remote:
            found = examine(attempt, read_record(attempt), remote).verdict
            while found.kind is VerdictKind.MOVING and time.monotonic() - began < again_s:
                found = examine(attempt, read_record(attempt), remote).verdict
        seconds = time.monotonic() - began
        truth = json.loads(truth_file.read_text())
        step = self.step
        wait_for(lambda: self.step > step + 1, seconds=SLOW_S)
        return found, truth, seconds

    def _wait_until_still(self) -> None:
        last, since = -1, time.monotonic()
        while time.monotonic() - since < STILL_S:
            if self.step != last:
                last, since = self.step, time.monotonic()
            time.sleep(0.1)


def is_right(case: Case, found: Verdict, truth: dict) -> bool:
    """The planted rank, and where the fault's count tells it, the collective and its number."""
    if found.ranks != (case.rank,):
        return False
    if not found.names_somebody and (found.kind, case.phase) != (VerdictKind.MOVING, "save"):
        return False  # a save may stand still while training goes on
    if (found.kind is VerdictKind.SILENT) != (case.kind in MUTE):
        return False
    if case.phase == "start":
        return found.collective is None
    if case.phase == "inside" or (case.phase == "save" and case.kind in MUTE):
        return found.collective is not None  # the next one, of whichever group
    described = (found.collective.description, found.collective.number) if found.collective else ()
    return described == (truth["description"], truth["numbers"][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hangs", type=int, default=40)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of hangs")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    campaign, right = Campaign(folder), 0
    drawn = list(enumerate(cases(arguments.seed, arguments.hangs), 1))
    drawn = [(number, case) for number, case in drawn if number in (arguments.only or [number])]
    try:
        for number, case in drawn:
            found, truth, seconds = campaign.verdict(case)
            is_so = is_right(case, found, truth)
            right += is_so
            planted = (truth["call"], truth["description"], truth.get("numbers"))
            sys.stdout.write(
                f"{number}: {'right' if is_so else 'WRONG'}  {case.kind} in rank {case.rank}, "
                f"{case.phase}, before {planted}: {found} ({found.kind}, {seconds:.1f} s)\n"
                f"    {' < '.join(found.where[:3])}\n"
            )
            sys.stdout.flush()
    finally:
        campaign.stop()
    sys.stdout.write(f"{right} of {len(drawn)} right\n")
    if not arguments.folder:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
