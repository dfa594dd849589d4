import json
import logging
from types import SimpleNamespace

import pytest
import torch

from tests.trainer.metrics.test_step_report import ENDING, LARGE, SMALL, SPANS, micro, step
from trainer.atomic_files import read_json
from trainer.config import load_stage
from trainer.data.position import beginning
from trainer.guard import Guard
from trainer.metrics.bucket_seconds import BucketSeconds
from trainer.metrics.train_log import TrainLog
from trainer.run_dir import create_run


@pytest.fixture
def logged(tmp_path, group_of_one):
    """Log these steps of a run, and show what it left in the run's folder."""

    def log(steps, *, every, validation_losses=None):
        settings = [f"log.every_steps={every}", "log.wandb=false", "log.tensorboard=false"]
        run = create_run(tmp_path, "smoke")
        attempt = run.new_attempt()
        phases = SimpleNamespace(read=lambda: [SPANS, ENDING] * every)
        train_step = SimpleNamespace(
            config=load_stage("smoke", settings).config,
            device=torch.device("cpu"),
            dtype=torch.bfloat16,
            phases=phases,
            state=SimpleNamespace(optimizer=SimpleNamespace(guard=Guard())),
        )
        seconds = BucketSeconds(run, group_of_one)
        found = TrainLog(run, attempt, train_step, group_of_one, seconds, 0)
        progress = beginning(1)
        for result in steps:
            progress = progress.after_step(2)
            found.step(result, progress, 10, validation_losses)
        found.close()
        return run, attempt

    return log


STEPS = [
    step(micro(SMALL, [1.0, 3.0], [100.0, 900.0]), micro(LARGE, [4.0], [100.0])),
    step(micro(SMALL, [5.0, 5.0], [0.0, 500.0]), micro(LARGE, [9.0], [300.0], clips=0)),
]


def test_every_second_step_becomes_a_line_of_all_ranks_numbers(logged):
    run, attempt = logged(STEPS, every=2)
    [row] = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    measured = {"s_per_step", "clips_per_s", "time_unix_s"}
    names = ("global_step", "epoch", "step", "loss", "avg_loss", "grad_norm", "weight_norm", "lr")
    assert {name: row[name] for name in (*names, "skipped_clips", "skipped_steps", "attempt")} == {
        "global_step": 2,
        "epoch": 0,
        "step": 2,
        "loss": 5.0,
        "avg_loss": 4.0,
        "grad_norm": 1.0,
        "weight_norm": 2.0,
        "lr": 0.1,
        "skipped_clips": 1,
        "skipped_steps": 0,
        "attempt": attempt.number,
    }
    assert all(row[name] > 0 for name in measured)
    assert "validation_loss" not in row


def test_a_validation_loss_is_written_at_once(logged):
    run, _ = logged(STEPS[:1], every=1, validation_losses=[0.125, 0.375])
    [row] = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert (row["global_step"], row["validation_loss"]) == (1, 0.25)
    assert json.loads(run.validation.read_text()) == {"global_step": 1, "losses": [0.125, 0.375]}


def test_every_step_is_a_sign_of_life_and_names_the_clips_that_were_left_out(logged, caplog):
    with caplog.at_level(logging.WARNING, "trainer"):
        run, attempt = logged(STEPS, every=100)
    assert not run.metrics.exists()
    beat = read_json(run.heartbeat)
    assert (beat["global_step"], beat["total_steps"], beat["attempt"]) == (2, 10, attempt.number)
    rows = [json.loads(line) for line in attempt.skipped_clips(0).read_text().splitlines()]
    assert rows == [{"row": 3, "path": "a.mp4", "reason": "broken"}]
    assert caplog.messages == ["skipped clip a.mp4: broken"]
