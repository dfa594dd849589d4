"""The real trainer under the real launcher, its ranks forked from a process that has loaded all."""

import json
import os

from soractl.launch.prepare import LaunchOptions, prepare_launch, prepare_resume
from soractl.launch.start import launch
from soractl.remote.requests import NodeResult
from tests.trainer import ranks
from trainer import rank_process
from trainer.atomic_files import read_json

SETTINGS = (
    "buckets.frames=[1,17]",
    "buckets.batch_size={144p=[1,1],240p=[1,1]}",
    "buckets.keep={144p=[1.0,1.0],240p=[0.0,0.0]}",
    "data.workers=0",
    "log.wandb=false",
    "log.tensorboard=false",
)


class Attempt:
    """One start of a run's ranks."""

    def __init__(self, started, world_size, program):
        self.run, self.dir = started.run, started.attempt
        self.start = started.plan.start.path
        self._context = ranks.start(world_size, program, str(self.run.path))
        self.pids = self._context.pids()

    def wait_for(self, condition):
        """Return when it holds; an error if the ranks end before."""
        while not condition():
            assert not self._context.join(timeout=0.005), "training is over"

    def wait_for_a_step(self):
        """Return when this attempt has taken its first step."""
        began_unix_s = read_json(self.dir.plan)["started_unix_s"]
        heartbeat = self.run.heartbeat
        self.wait_for(
            lambda: heartbeat.exists() and read_json(heartbeat)["time_unix_s"] > began_unix_s
        )

    def end(self):
        """The exit codes of all ranks."""
        for process in self._context.processes:
            process.join()
        return [process.exitcode for process in self._context.processes]


class Trainer:
    """Launches and resumes toy runs in a folder."""

    def __init__(self, folder, clips_csv, *settings, program=rank_process.main):
        self._folder, self._program = folder, program
        self._settings = (*SETTINGS, f"data.path={clips_csv}", *settings)

    def launch(self, *settings, world_size=2):
        """Start a new run."""
        options = LaunchOptions(runs=str(self._folder), overrides=(*self._settings, *settings))
        return self._start(prepare_launch("smoke", options, os.environ), world_size)

    def resume(self, what="latest", *settings, world_size=2):
        """Start a run's next attempt."""
        options = LaunchOptions(runs=str(self._folder), overrides=settings)
        return self._start(prepare_resume(what, options, os.environ), world_size)

    def _start(self, prepared, world_size):
        started = launch(prepared, ["soractl"], _nothing_runs_there)
        return Attempt(started, world_size, self._program)


def losses(run):
    """Loss, gradient norm and learning rate by step, of a run in which no step stands twice."""
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    found = {row["global_step"]: (row["loss"], row["grad_norm"], row["lr"]) for row in rows}
    assert list(found) == [row["global_step"] for row in rows]
    return found


def _nothing_runs_there(node, request, deadline_s):
    return NodeResult(node, stdout="0", exit_code=0)
