import json
import logging
from dataclasses import replace

import pytest
import torch

from tests.trainer import ranks
from trainer import setup
from trainer.atomic_files import write_json
from trainer.config import load_stage
from trainer.data import encoding
from trainer.data.cached_features import open_features
from trainer.data.dataset import load_clips
from trainer.model.pretrained import read_tensors
from trainer.remedy import Remedy, remedy_of
from trainer.run_dir import RunDir
from trainer.settings import ConfigError, dump

CACHED = {"both": ("text", "video"), "latents": ("video",), "captions": ("text",)}
LENGTHS = (20, 25, 40, 19, 38, 22, 30, 26)
BAD_ROW = 5
SMOKE = (
    *("data.workers=0", "checkpoint.every_steps=0", "log.wandb=false", "log.tensorboard=false"),
    *("buckets.frames=[17]", "buckets.batch_size.144p=[2]", "buckets.keep.144p=[1.0]"),
    *("buckets.batch_size.240p=[2]", "buckets.keep.240p=[0.0]"),
)


@pytest.fixture(scope="module")
def table(tmp_path_factory, write_table):
    """Films, one of which is broken."""
    folder = tmp_path_factory.mktemp("films")
    return write_table(folder, LENGTHS, size=(160, 208), broken=BAD_ROW)


def train(group, settings, folder):
    """A whole run, whose networks are noted."""
    folder.mkdir()
    run = RunDir(folder)
    attempt = run.new_attempt()
    write_json(attempt.config_json, dump(settings))
    write_json(attempt.plan, {"start": {"kind": "fresh"}})
    run.checkpoints_folder.mkdir()
    logging.getLogger("trainer").setLevel(logging.WARNING)
    it = setup.prepare(run, attempt, settings, group)
    built = [it.train_step.vae is not None, it.train_step.caption_encoder is not None]
    it.run_to_the_end()
    write_json(folder / "built.json", {"encoders": built})


def encode(group, settings, folder, kinds, variants):
    job = encoding.Job(settings, folder, kinds, variants, clips_per_shard=3)
    encoding.work(job, group.rank, 0, group.world_size)
    encoding.finish(job)


def fresh_and_cached(group, settings, folder):
    """Runs with the same process, settings and clips."""
    train(group, settings, folder / "fresh")
    for name, kinds in CACHED.items():
        features = folder / f"features of {name}"
        encode(group, settings, features, kinds, variants=settings.epochs)
        data = replace(settings.data, features=str(features))
        train(group, replace(settings, data=data), folder / name)


def outcome(folder):
    """Losses and gradient norms of all steps, and every weight at the end."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    steps = [(row["loss"], row["grad_norm"]) for row in map(json.loads, lines)]
    return steps, dict(read_tensors(RunDir(folder).checkpoints()[-1].model))


@pytest.mark.slow  # four short trainings
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_training_on_cached_features_is_training_on_fresh_ones_bit_for_bit(tmp_path, table, dtype):
    settings = load_stage("smoke", [*SMOKE, f"data.path={table}", f"trainer.dtype={dtype}"]).config
    ranks.run(1, fresh_and_cached, settings, tmp_path)
    steps, weights = outcome(tmp_path / "fresh")
    assert len({loss for loss, _ in steps}) == 8
    for name, kinds in CACHED.items():
        cached_steps, cached_weights = outcome(tmp_path / name)
        assert cached_steps == steps
        assert all(torch.equal(cached_weights[key], weight) for key, weight in weights.items())
        encoders = json.loads((tmp_path / name / "built.json").read_text())["encoders"]
        assert encoders == ["video" not in kinds, "text" not in kinds]


def test_with_fewer_variants_than_epochs_they_come_again(tmp_path, table):
    settings = load_stage("smoke", [*SMOKE, f"data.path={table}"]).config
    job = encoding.Job(settings, tmp_path, ("video",), variants=2, clips_per_shard=3)
    encoding.work(job, 0, 0, 1)
    encoding.finish(job)
    data = replace(settings.data, features=str(tmp_path))
    features = open_features(replace(settings, data=data), load_clips(table))
    assert [features.draw_of(epoch) for epoch in range(5)] == [0, 1, 0, 1, 0]
    places = [features.latents.place_of(epoch, 4) for epoch in range(3)]
    assert places[0] == places[2] != places[1]
    assert [features.latents.fault_of(epoch, BAD_ROW) is None for epoch in (0, 1)] == [False] * 2
    assert features.captions is None
    assert features.captions_of([0]) is None


def test_a_folder_without_features_is_refused(tmp_path, table):
    settings = load_stage("smoke", [f"data.path={table}", f"data.features={tmp_path}"]).config
    with pytest.raises(ConfigError, match="no features are there") as refused:
        open_features(settings, load_clips(table))
    assert remedy_of(refused.value) == Remedy(encode_features=tmp_path)
