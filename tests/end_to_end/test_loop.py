"""What the loop does beside training: it adds up, measures, validates, and gives up in time."""

import json
import os
import signal

import pandas as pd
import pytest

from tests.end_to_end.forked import Trainer, losses
from trainer.atomic_files import read_json


def rows(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


@pytest.mark.slow  # three starts of two ranks
def test_accumulating_training_counts_steps_and_goes_on_within_an_epoch(tmp_path, clips_csv):
    wanted = ("optim.accumulate=2", "validation.every_steps=2", "validation.clips=2")
    trainer = Trainer(tmp_path, clips_csv, *wanted)
    whole = trainer.launch("trainer.max_steps=4")
    assert whole.end() == [0, 0]
    early = trainer.launch("trainer.max_steps=2")
    assert early.end() == [0, 0]
    [checkpoint] = early.run.checkpoints()
    assert (checkpoint.manifest.step, checkpoint.manifest.consumed) == (2, ((2, 4),))
    resumed = trainer.resume("latest", "trainer.max_steps=4")
    assert resumed.end() == [0, 0]
    assert losses(resumed.run) == losses(whole.run)
    found = [row.get("validation_loss") for row in rows(whole.run)]
    assert found == [row.get("validation_loss") for row in rows(resumed.run)]
    assert [value is None for value in found] == [True, False, True, False]


@pytest.mark.slow  # two starts of two ranks
def test_the_second_epoch_is_ordered_by_what_the_first_one_measured(tmp_path, clips_csv):
    trainer = Trainer(tmp_path, clips_csv, "balance.measured=true", "checkpoint.keep_last=0")
    attempt = trainer.launch("checkpoint.every_steps=0")
    attempt.wait_for(attempt.run.checkpoints)
    os.kill(attempt.pids[1], signal.SIGTERM)
    assert attempt.end() == [143, 143]
    end, within = (checkpoint.manifest for checkpoint in attempt.run.checkpoints())
    assert (end.epoch, end.epoch_is_over, within.epoch) == (0, True, 1)
    assert within.step > 0
    assert end.costs.keys() <= read_json(attempt.run.bucket_seconds).keys()
    assert all(seconds > 0 for seconds in end.costs.values())
    resumed = trainer.resume("latest", f"trainer.max_steps={within.global_step + 1}")
    assert resumed.end() == [0, 0]
    later = resumed.run.checkpoints()[-1].manifest
    assert later.step == within.step + 1
    assert within.costs == later.costs == end.costs != {}


@pytest.mark.slow  # a start of two ranks
def test_training_that_diverges_ends_with_a_checkpoint_and_a_sentence(tmp_path, clips_csv):
    trainer = Trainer(tmp_path, clips_csv, "optim.lr=1e30", "optim.warmup_steps=0")
    attempt = trainer.launch("guard.most_skips=3")
    assert attempt.end() == [1, 1]
    errors = [failure["error"] for failure in attempt.dir.rank_failures()]
    last = rows(attempt.run)[-1]["global_step"]
    assert errors == [errors[0]] * 2
    assert errors[0].startswith(f"3 steps in a row were left out, up to step {last}: ")
    assert all(failure["traceback"] is None for failure in attempt.dir.rank_failures())
    assert attempt.dir.rank_failures()[0]["remedy"] == {"settings": {"optim.lr": 5e29}}
    assert attempt.run.checkpoints()[-1].manifest.global_step == last
    assert attempt.run.checkpoints()[-1].manifest.skipped_steps == 3
    assert [row["skipped_steps"] for row in rows(attempt.run)][-4:] == [0, 1, 2, 3]


@pytest.mark.slow  # a start of two ranks
def test_a_table_without_a_step_ends_training_at_the_start_with_the_reasons(tmp_path, clips_csv):
    trainer = Trainer(tmp_path, clips_csv)
    attempt = trainer.launch(
        "buckets.batch_size={144p=[99,99],240p=[1,1]}", "vae.weights=is/not/looked/for"
    )
    assert attempt.end() == [1, 1]
    clips = len(pd.read_csv(clips_csv))
    errors = {failure["error"] for failure in attempt.dir.rank_failures()}
    assert errors == {
        f"{clips_csv}: none of its {clips} clips can be trained on by 2 ranks: {clips} left over "
        "when a bucket is cut into batches; change data.path or buckets"
    }


@pytest.mark.slow  # a start of a rank
def test_clips_of_two_frames_are_trained_on(tmp_path, clips_csv):
    settings = ["buckets.frames=[2]", "buckets.keep={144p=[1.0],240p=[0.0]}"]
    settings += ["buckets.batch_size={144p=[2],240p=[1]}", "trainer.max_steps=2"]
    attempt = Trainer(tmp_path, clips_csv).launch(*settings, world_size=1)
    assert attempt.end() == [0]
    assert [row["loss/bucket/144p-2"] > 0 for row in rows(attempt.run)] == [True, True]


@pytest.mark.slow  # a start of a rank
def test_checkpoints_by_the_clock_are_saved_once_when_they_are_due(tmp_path, clips_csv):
    settings = ["checkpoint.every_steps=0", "checkpoint.every_minutes=0.00001"]  # always due
    settings += ["checkpoint.keep_last=0", "trainer.max_steps=7"]
    attempt = Trainer(tmp_path, clips_csv).launch(*settings, world_size=1)
    assert attempt.end() == [0]
    steps = [checkpoint.manifest.global_step for checkpoint in attempt.run.checkpoints()]
    assert steps == [3, 6, 7]  # asked for, voted on, and made a step later; the last at the end


@pytest.mark.slow  # two starts of a rank
def test_a_finished_run_that_is_resumed_ends_at_once_and_well(tmp_path, clips_csv):
    settings = ["epochs=1", "buckets.keep={144p=[0.0,1.0],240p=[0.0,0.0]}"]
    trainer = Trainer(tmp_path, clips_csv, *settings, "buckets.batch_size={144p=[1,8],240p=[1,1]}")
    attempt = trainer.launch(world_size=1)
    assert attempt.end() == [0]
    before = rows(attempt.run)
    [checkpoint] = attempt.run.checkpoints()
    manifest, steps = checkpoint.manifest, len(before)
    assert checkpoint.name == f"epoch0-global_step{steps}"
    assert (manifest.step, manifest.consumed, manifest.epoch_is_over) == (
        steps,
        ((1, steps),),
        True,
    )
    resumed = trainer.resume(world_size=1)
    assert resumed.end() == [0]
    assert rows(resumed.run) == before
