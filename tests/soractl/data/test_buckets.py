import numpy as np
import pandas
import pytest

from soractl.data import buckets as data_buckets
from trainer.config import load_stage
from trainer.data import batch_sampler
from trainer.data.batch_sampler import plan_epoch
from trainer.data.buckets import assign_epoch
from trainer.data.costs import work
from trainer.data.dataset import load_clips


def write_table(path, clips):
    """(frames, height, width) of each clip."""
    rows = [(f"{number}.mp4", "a cat", *clip) for number, clip in enumerate(clips)]
    columns = ["path", "text", "num_frames", "height", "width"]
    pandas.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


def test_every_clip_is_counted_where_it_goes(stage):
    clips = [
        *[(18, 144, 256)] * 5,
        *[(1, 240, 426)] * 3,
        (17, 144, 256),
        (90, 90, 160),
        (0, 240, 426),
    ]
    write_table(stage.folder / "clips.csv", clips)
    epoch = data_buckets.first_epoch("small", stage.folder / "clips.csv", 2, ())
    held = {
        (row.resolution, row.frames): (row.clips, row.batches, row.remainder) for row in epoch.rows
    }
    assert held == {("240p", 1): (0, 0, 0), ("144p", 17): (5, 2, 1), ("144p", 1): (3, 1, 1)}
    assert epoch.dropped_by_reason == {
        batch_sampler.TOO_SMALL: 1,
        batch_sampler.TOO_SHORT: 2,
        batch_sampler.NOT_KEPT: 0,
        batch_sampler.NO_BATCH: 2,
        batch_sampler.NO_STEP: 2,
    }
    assert (epoch.steps, epoch.batches, epoch.exit_code) == (1, 3, 0)
    assert list(epoch.balance) == [0, 4]


def test_the_epoch_shown_is_the_epoch_that_training_plans(stage):
    draw = np.random.default_rng(5)
    sizes = [(144, 256), (240, 426), (360, 640), (720, 1280), (1080, 1920), (640, 360)]
    clips = [(int(draw.integers(1, 500)), *sizes[draw.integers(6)]) for _ in range(3000)]
    table = write_table(stage.folder / "clips.csv", clips)
    overrides = ("buckets.batch_size.144p=[4,3,2,2,1]",)
    epoch = data_buckets.first_epoch("stage1", table, 4, overrides)
    config = load_stage("stage1", overrides).config
    assignment = assign_epoch(load_clips(table), config, 0)
    plan = plan_epoch(assignment, world_size=4, window=config.balance.window)
    batches = [batch for step in range(plan.steps) for batch in plan.step(step)]
    trained = sum(len(batch.rows) for batch in batches)
    assert epoch.steps == plan.steps > 10
    assert sum(epoch.dropped_by_reason.values()) == len(clips) - trained
    assert sum(row.clips for row in epoch.rows) == int((assignment.index >= 0).sum())
    cost = [[work(batch.bucket) for batch in plan.step(step)] for step in range(plan.steps)]
    share = sum(map(sum, cost)) / 4 / sum(map(max, cost))
    assert epoch.balance[config.balance.window] == pytest.approx(share)
    assert epoch.balance[config.balance.window] > epoch.balance[0]


def test_buckets_that_can_hold_no_clip_are_a_failure(stage):
    write_table(stage.folder / "clips.csv", [(18, 144, 256)] * 4)
    nothing = ("--set", "buckets.keep.144p=[0.0,0.0]")
    done = stage.soractl("data", "buckets", "small", "clips.csv", *nothing, code=1)
    assert done.stdout.splitlines()[-1] == (
        "the buckets of small can hold no clip: each keeps 0 or has none"
    )


def test_too_few_clips_for_all_ranks_are_a_failure(stage):
    write_table(stage.folder / "clips.csv", [(18, 144, 256)] * 5)
    done = stage.soractl("data", "buckets", "small", "clips.csv", "--ranks", "3", code=1)
    assert done.stdout.splitlines()[-1] == ("no step to train: only 2 full batches for 3 ranks")
    nearly = ("--set", "buckets.batch_size.144p=[3,3]", "--ranks", "2")
    done = stage.soractl("data", "buckets", "small", "clips.csv", *nearly, code=1)
    assert done.stdout.splitlines()[-1] == "no step to train: only 1 full batch for 2 ranks"


def test_a_table_without_numbers_names_the_command_that_measures(stage):
    stage.write("clips.csv", "path,text\na.mp4,a cat\n")
    done = stage.soractl("data", "buckets", "small", "clips.csv", code=2)
    assert done.stderr == (
        "error: clips.csv has no column num_frames, height, width\n"
        "hint: soractl data info clips.csv --out clips_info.csv\n"
    )
