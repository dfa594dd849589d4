import json
import os
import signal

import pytest

from tests.end_to_end.conftest import processes_of
from tests.waiting import wait_for
from trainer.run_dir import RunDir

STEPS = 8


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run):
    return {row["global_step"]: (row["loss"], row["grad_norm"], row["lr"]) for row in rows(run)}


def settings(clips_csv):
    wanted = [f"data.path={clips_csv}", f"trainer.max_steps={STEPS}", "checkpoint.every_steps=3"]
    wanted += ["log.wandb=false", "log.tensorboard=false", "vae.micro_batch_size=16"]
    return [part for setting in wanted for part in ("--set", setting)]


@pytest.mark.slow  # three starts of two ranks
def test_killed_and_resumed_training_has_the_losses_of_uninterrupted_training(
    soractl, tmp_path, clips_csv
):
    soractl("launch", "smoke", *settings(clips_csv))
    whole = losses(tmp_path / "runs/001-smoke")
    assert list(whole) == list(range(1, STEPS + 1))

    soractl("launch", "smoke", "--detach", *settings(clips_csv))
    run = tmp_path / "runs/002-smoke"
    wait_for(lambda: RunDir(run).checkpoints() and len(rows(run)) >= 4)
    for pid in processes_of(tmp_path):
        os.kill(pid, signal.SIGKILL)
    soractl("resume", "latest")
    assert losses(run) == whole
    assert [path.name for path in sorted((run / "attempts").iterdir())] == ["1", "2"]
