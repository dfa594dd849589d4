from dataclasses import replace

import pandas as pd
import pytest

from trainer.config import load_stage
from trainer.data.dataset import load_clips
from trainer.data.feature_identity import made_with, matching_set
from trainer.data.features import FeatureSet, Shard
from trainer.remedy import Remedy, remedy_of
from trainer.settings import ConfigError


@pytest.fixture
def smoke(tmp_path):
    """The settings of the smoke stage and a table of two clips."""
    columns = {"path": ["a", "b"], "text": ["a cat", "a dog"], "num_frames": 40}
    table = pd.DataFrame({**columns, "height": 240, "width": 426})
    table.to_csv(tmp_path / "clips.csv", index=False)
    settings = load_stage("smoke").config
    return settings, load_clips(tmp_path / "clips.csv")


def complete_set(folder, kind, settings, clips):
    wanted = made_with(kind, settings, clips)
    features = FeatureSet.of(folder, kind, wanted)
    features.begin(wanted, 8)
    shard = Shard(0, (0, 1))
    features.write(shard, {}, {0: "x", 1: "x"})
    features.finish([shard], variants=1)
    return features


def test_the_set_of_the_same_settings_is_found(tmp_path, smoke):
    settings, clips = smoke
    assert matching_set(tmp_path, "video", settings, clips) is None
    made = complete_set(tmp_path, "video", settings, clips)
    other = replace(settings, seed=7)
    complete_set(tmp_path, "video", other, clips)
    assert matching_set(tmp_path, "video", settings, clips).path == made.path
    assert matching_set(tmp_path, "text", settings, clips) is None


def test_batch_sizes_change_no_features(tmp_path, smoke):
    settings, clips = smoke
    complete_set(tmp_path, "video", settings, clips)
    sizes = {name: [2 * size for size in row] for name, row in settings.buckets.batch_size.items()}
    larger = replace(settings, buckets=replace(settings.buckets, batch_size=sizes))
    assert matching_set(tmp_path, "video", larger, clips) is not None


def test_features_of_other_settings_are_refused_with_what_differs(tmp_path, smoke):
    settings, clips = smoke
    complete_set(tmp_path, "video", settings, clips)
    vae = replace(settings.vae, micro_frame_size=9)
    with pytest.raises(ConfigError) as refused:
        matching_set(tmp_path, "video", replace(settings, seed=7, vae=vae), clips)
    message = str(refused.value)
    assert "seed is 7, there 42, vae.micro_frame_size is 9, there 17" in message
    assert remedy_of(refused.value) == Remedy(encode_features=tmp_path)


def test_other_weights_are_noticed_wherever_they_lie(tmp_path, smoke):
    settings, clips = smoke
    file = tmp_path / "vae.safetensors"
    file.write_bytes(bytes(range(256)) * 4096)
    with_weights = replace(settings, vae=replace(settings.vae, weights=str(file)))
    complete_set(tmp_path, "video", with_weights, clips)
    moved = file.rename(tmp_path / "moved.safetensors")
    elsewhere = replace(settings, vae=replace(settings.vae, weights=str(moved)))
    assert matching_set(tmp_path, "video", elsewhere, clips) is not None
    assert matching_set(tmp_path, "video", with_weights, clips) is not None  # not here: not checked
    moved.write_bytes(bytes(reversed(range(256))) * 4096)
    with pytest.raises(ConfigError, match=r"other settings: vae\.weights$"):
        matching_set(tmp_path, "video", elsewhere, clips)


def test_captions_stand_on_their_own(tmp_path, smoke):
    settings, clips = smoke
    complete_set(tmp_path, "text", settings, clips)
    buckets = replace(settings.buckets, frames=(1, 9, 18))
    assert matching_set(tmp_path, "text", replace(settings, buckets=buckets), clips) is not None
    cleaned = replace(settings, text_encoder=replace(settings.text_encoder, clean_captions=True))
    with pytest.raises(ConfigError, match="clean_captions is true, there false"):
        matching_set(tmp_path, "text", cleaned, clips)


def test_an_incomplete_set_is_refused(tmp_path, smoke):
    settings, clips = smoke
    (complete_set(tmp_path, "video", settings, clips).path / "index.json").unlink()
    with pytest.raises(ConfigError, match="is not complete"):
        matching_set(tmp_path, "video", settings, clips)
