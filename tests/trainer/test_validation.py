import json
from dataclasses import replace

import pandas as pd
import pytest

from tests.trainer import ranks
from trainer import setup
from trainer.config import load_stage
from trainer.data.cached_features import CachedFeatures
from trainer.data.position import beginning
from trainer.settings import ConfigError
from trainer.validation import Validation

FRESH = {"kind": "random"}


@pytest.fixture(scope="module")
def clips_csv(write_video, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for number, size in enumerate([(144, 256), (160, 256), (144, 256), (16, 16), (256, 144)]):
        path = write_video(folder / f"{number}.mp4", 20, size=size)
        rows.append((path, f"a pattern, {number}", 20, *size))
    (folder / "1.mp4").write_bytes(b"no film")
    table = pd.DataFrame(rows, columns=["path", "text", "num_frames", "height", "width"])
    table.to_csv(folder / "clips.csv", index=False)
    return folder / "clips.csv"


def stage(clips_csv, *more):
    wanted = ["buckets.frames=[1,17]", "buckets.keep={144p=[1.0,1.0]}", "data.workers=0"]
    return load_stage("smoke", [*wanted, f"data.path={clips_csv}", *more]).config


def validate(it, settings, out, cached=False):
    train_step = setup.build(settings, it, FRESH, beginning(it.world_size), CachedFeatures())
    if cached:  # then training is built without encoders
        train_step = replace(train_step, vae=None, caption_encoder=None)
    validation = Validation(train_step, it)
    losses = [validation.losses(), validation.losses()]
    assert train_step.model.training
    (out / f"{it.world_size}-{it.rank}-{cached}.json").write_text(json.dumps(losses))


def test_the_loss_is_the_same_each_time_on_any_number_of_ranks_and_with_features_cached(
    clips_csv, tmp_path
):
    for world_size in (1, 2):
        ranks.run(world_size, validate, stage(clips_csv), tmp_path)
    ranks.run(2, validate, stage(clips_csv), tmp_path, True)
    found = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    [values] = {tuple(losses) for each in found for losses in each}
    assert len(found) == 5
    assert all(0 < value < 100 for value in values)


def fail(it, settings):
    with pytest.raises(ConfigError, match=r"no clip for validation fits a bucket and can be read"):
        validate(it, settings, None)


def test_validation_clips_of_which_none_can_be_read_are_refused_at_the_start(clips_csv, tmp_path):
    table = pd.read_csv(clips_csv).iloc[[1, 3]]  # one is no film, one is too small
    table.to_csv(tmp_path / "bad.csv", index=False)
    ranks.run(1, fail, stage(clips_csv, f"validation.path={tmp_path / 'bad.csv'}"))
