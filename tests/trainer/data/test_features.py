import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from trainer.data.features import (
    FeatureError,
    FeatureSet,
    Shard,
    caption_as_tensors,
    cut_into_shards,
    latents_as_tensors,
    read_caption,
    read_latents,
)
from trainer.settings import ConfigError

MADE_WITH = {"seed": "42", "vae.arch": "smoke"}
ROWS = [2, 3, 5, 8, 13]


def latents(row):
    return torch.full((4, 2, 3, 5), row / 7, dtype=torch.bfloat16)


@pytest.fixture
def features(tmp_path):
    found = FeatureSet.of(tmp_path, "video", MADE_WITH)
    found.begin(MADE_WITH, clips_per_shard=2)
    return found


def write(features, shard, failed=()):
    tensors = {}
    for row in {*shard.rows} - {*failed}:
        tensors |= latents_as_tensors(row, latents(row), fps=23.0)
    faults = {*shard.rows} & {*failed}
    features.write(shard, tensors, dict.fromkeys(faults, "no video stream"))


def test_what_was_written_is_read_bit_for_bit(features):
    shards = list(cut_into_shards(0, ROWS, 2))
    assert [shard.rows for shard in shards] == [(2, 3), (5, 8), (13,)]
    for shard in shards:
        write(features, shard, failed=[8])
    index = features.finish(shards, variants=1)
    assert (index.clips, index.failed) == (4, {0: {8: "no video stream"}})
    assert FeatureSet(features.path).index == index
    for row in (2, 3, 5, 13):
        read, fps = read_latents(features.file_of(0, row), row)
        assert torch.equal(read, latents(row))
        assert (read.dtype, fps) == (torch.bfloat16, 23.0)


def test_captions_keep_their_true_length(tmp_path):
    features = FeatureSet.of(tmp_path, "text", MADE_WITH)
    features.begin(MADE_WITH, 8)
    shard = Shard(0, (0, 1))
    long, short = torch.randn(9, 6), torch.randn(1, 6)
    features.write(shard, {**caption_as_tensors(0, long), **caption_as_tensors(1, short)}, {})
    assert torch.equal(read_caption(features.path / shard.file_name, 0), long)
    assert torch.equal(read_caption(features.path / shard.file_name, 1), short)


def test_a_shard_of_clips_that_all_failed_is_complete_too(features):
    shard = Shard(0, (4, 6))
    write(features, shard, failed=[4, 6])
    assert features.has(shard)
    assert features.failed_in(shard) == {4: "no video stream", 6: "no video stream"}
    assert features.finish([shard], variants=1).clips == 0


def test_without_all_shards_there_is_no_index(features):
    shards = list(cut_into_shards(0, ROWS, 2))
    write(features, shards[0])
    with pytest.raises(ConfigError, match=r"2 shards are missing \(v0-00000005.safetensors"):
        features.finish(shards, variants=1)
    assert features.index is None


def test_a_shard_with_other_clips_is_not_taken(features):
    write(features, Shard(0, (2, 5)))
    with pytest.raises(ConfigError, match="holds other clips than it should"):
        features.finish([Shard(0, (2, 3))], variants=1)
    (features.path / "v0-00000002.safetensors").write_bytes(b"half")
    with pytest.raises(ConfigError, match="is no shard of features"):
        features.finish([Shard(0, (2, 3))], variants=1)


def test_a_lost_shard_is_named(features):
    with pytest.raises(FeatureError, match=r"v0-00000002.safetensors: No such file"):
        read_latents(features.path / "v0-00000002.safetensors", 2)


def test_killed_while_it_writes_no_half_file_has_a_final_name(features):
    code = f"""
        import os, signal, torch
        from trainer.data import features
        features.sync_to_disk = lambda path: os.kill(os.getpid(), signal.SIGKILL)
        shard = features.Shard(0, (2, 3))
        features.FeatureSet(features.Path({str(features.path)!r})).write(
            shard, features.latents_as_tensors(2, torch.ones(4, 9, 9, 9), 1.0), {{}}
        )
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not features.has(Shard(0, (2, 3)))
    assert len(list(features.path.glob(".*.draft"))) == 1
    features.remove_drafts()
    assert [path.name for path in features.path.iterdir()] == ["made_with.json"]
