from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainer.config import load_stage
from trainer.data import encoding
from trainer.data.buckets import assign_epoch
from trainer.data.dataset import load_clips
from trainer.data.decode import read_frames
from trainer.data.features import FeatureSet, read_caption, read_latents
from trainer.model import build as networks
from trainer.seeds import derive_seed
from trainer.settings import ConfigError, dump

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:diffusers")

BAD_ROW = 2
LENGTHS = [20, 25, 40, 19, 38, 22, 30]
CPU = {"device": torch.device("cpu"), "dtype": torch.bfloat16}


@pytest.fixture(scope="module")
def table(tmp_path_factory, write_table):
    """Films of many lengths, one of which is broken."""
    folder = tmp_path_factory.mktemp("films")
    return write_table(folder, LENGTHS, size=(144, 256), broken=BAD_ROW)


@pytest.fixture
def job(tmp_path, table):
    config = load_stage("smoke", [f"data.path={table}", "data.workers=0"]).config
    return encoding.Job(config, tmp_path, ("text", "video"), variants=2, clips_per_shard=2)


def values_of(job):
    return {**vars(job), "settings": dump(job.settings), "folder": str(job.folder)}


def work(job, world_size):
    for rank in range(world_size):
        encoding.work(job, rank, 0, world_size)
    return encoding.finish(job)["parts"]


def encoded(part):
    """(variant, row) of everything that a set has."""
    features = FeatureSet(Path(part["path"]))
    found = []
    for shard in features.path.glob("v*.safetensors"):
        names = rows_in(shard)
        found += [(int(shard.name[1 : shard.name.index("-")]), row) for row in names]
    return found


def rows_in(shard):
    from safetensors import safe_open

    with safe_open(shard, "pt") as tensors:
        names = tensors.keys()
    return [int(name.rpartition(".")[2]) for name in names if not name.startswith("fps.")]


def test_each_clip_is_encoded_as_training_would_by_any_number_of_ranks(job, table):
    text, video = work(job, 3)
    rows = {*range(len(LENGTHS))}
    assert Counter(encoded(text)) == {(0, row): 1 for row in rows}
    good = rows - {BAD_ROW}
    assert Counter(encoded(video)) == {(v, row): 1 for v in (0, 1) for row in good}
    assert (video["clips"], video["failed"]) == (12, 2)
    assert [clip["path"] for clip in video["failed_clips"]] == [str(table.parent / "2.mp4")]
    settings, clips = job.settings, load_clips(table)
    vae = networks.build_vae(settings.vae, settings.seed, **CPU)
    features = FeatureSet(Path(video["path"]))
    for variant in (0, 1):
        assignment = assign_epoch(clips, settings, variant)
        bucket = assignment.buckets[assignment.index[4]]
        start = derive_seed(settings.seed, variant, 4, "window") % (LENGTHS[4] - bucket.frames + 1)
        shape = bucket.frames, bucket.height, bucket.width
        film, fps = read_frames(clips.path_of(4), start, *shape)
        with torch.no_grad():
            seed = derive_seed(settings.seed, variant, 4, "posterior")
            expected = vae.encode_each(film[None].bfloat16(), [seed])[0]
        found, found_fps = read_latents(features.file_of(variant, 4), 4)
        assert (found_fps, torch.equal(found, expected)) == (fps, True)
    encoder = networks.build_caption_encoder(settings.text_encoder, settings.seed, **CPU)
    found = read_caption(FeatureSet(Path(text["path"])).file_of(0, 3), 3)
    assert torch.equal(found, encoder.encode_each(["film xxx"])[0])
    assert found.shape == (len("film xxx") + 1, encoder.width)


def test_the_plan_says_how_large_it_will_be_and_what_is_left(job):
    before = encoding.plan(job)["parts"]
    assert [part["done_clips"] for part in before] == [0, 0]
    assert not list(job.folder.iterdir())
    after = work(job, 1)
    for planned, made in zip(before, after, strict=True):
        assert planned["path"] == made["path"]
        heads = 400 * (2 * planned["clips"])  # names and shapes in the shards
        assert made["bytes"] - heads < planned["bytes"] * made["clips"] / planned["clips"] * 1.4
        assert planned["bytes"] * 0.6 < made["bytes"]
    assert [part["done_clips"] for part in encoding.plan(job)["parts"]] == [7, 14]


def test_more_variants_keep_the_first(job):
    first = work(replace(job, variants=1, kinds=("video",)), 1)[0]
    before = {file.name: file.stat().st_ino for file in Path(first["path"]).glob("v*")}
    more = work(replace(job, kinds=("video",)), 1)[0]
    after = {file.name: file.stat().st_ino for file in Path(more["path"]).glob("v*")}
    assert more["variants"] == 2
    assert before.items() < after.items()


def test_a_stage_that_no_clip_fits_is_refused(job):
    settings = job.settings
    buckets = replace(settings.buckets, frames=(1, 60, 90))
    impossible = replace(job, settings=replace(settings, buckets=buckets))
    with pytest.raises(ConfigError, match="no clip fits a bucket"):
        encoding.plan(impossible)
