from dataclasses import replace

import pandas as pd
import pytest
import torch

from trainer.config import load_stage
from trainer.data.cached_features import CachedFeatures
from trainer.data.dataset import load_clips
from trainer.data.epoch import plan_rest_of_epoch
from trainer.data.position import beginning
from trainer.distributed.parallel import Ranks
from trainer.settings import ConfigError

RANKS = Ranks(rank=0, local_rank=0, world_size=2, device=torch.device("cpu"))
SETTINGS = load_stage(
    "smoke",
    [
        *("buckets.frames=[17]", "buckets.batch_size.144p=[2]", "buckets.keep.144p=[1.0]"),
        *("buckets.batch_size.240p=[2]", "buckets.keep.240p=[0.0]"),
    ],
).config


@pytest.fixture
def clips(tmp_path):
    """Nine clips that fit one bucket, and one that is too short for it."""
    columns = {"path": [f"{row}.mp4" for row in range(10)], "text": "a cat", "height": 144}
    table = pd.DataFrame({**columns, "width": 256, "num_frames": [20] * 9 + [16]})
    table.to_csv(tmp_path / "clips.csv", index=False)
    return load_clips(tmp_path / "clips.csv")


def test_the_plan_of_a_whole_epoch_comes_with_what_it_leaves_out(clips):
    plan, leaves_out = plan_rest_of_epoch(clips, CachedFeatures(), beginning(2), SETTINGS, RANKS)
    rows = [row for rank in range(2) for one in plan.for_rank(rank, 0) for row in one.rows]
    assert (plan.steps, len(set(rows))) == (2, 8)
    assert leaves_out == (
        "1 too short for every length; 1 left over when a bucket is cut into batches"
    )


def test_the_plan_of_the_rest_goes_on_where_training_stands_and_repeats_no_reason(clips):
    position = beginning(2)
    whole, _ = plan_rest_of_epoch(clips, CachedFeatures(), position, SETTINGS, RANKS)
    rest, leaves_out = plan_rest_of_epoch(
        clips,
        CachedFeatures(),
        replace(position, consumed=((2, 1), (2, 0))),
        SETTINGS,
        RANKS,
    )
    assert (rest.steps, leaves_out) == (1, "")
    assert [one.rows for one in rest.for_rank(1, 0)] == [one.rows for one in whole.for_rank(1, 1)]


def test_clips_of_which_none_can_be_trained_on_are_refused_with_every_reason(clips):
    sizes = {**SETTINGS.buckets.batch_size, "144p": (99,)}
    settings = replace(SETTINGS, buckets=replace(SETTINGS.buckets, batch_size=sizes))
    with pytest.raises(ConfigError) as caught:
        plan_rest_of_epoch(clips, CachedFeatures(), beginning(2), settings, RANKS)
    assert str(caught.value) == (
        f"{settings.data.path}: none of its 10 clips can be trained on by 2 ranks: "
        "1 too short for every length; 9 left over when a bucket is cut into batches; "
        "change data.path or buckets"
    )
