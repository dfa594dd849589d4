import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from soractl.estimate.bucket import encoders_s, flops, memory, model_s, recomputed
from soractl.estimate.rates import GPUS, NETWORKS
from trainer.chunks import NoisedBatch
from trainer.config import load_stage
from trainer.data.buckets import Bucket
from trainer.model.flops import forward_flops
from trainer.model.stdit3 import STDiT3, STDiT3Config

RECORDED = Path(__file__).parents[2] / "recorded" / "h200-node"
MODEL = load_stage("stage1").config.model
BUCKETS = {
    "144p": Bucket("144p", 51, "0.56", 144, 256, 51),
    "240p": Bucket("240p", 51, "0.56", 240, 426, 20),
    "360p": Bucket("360p", 51, "0.56", 360, 640, 8),
    "720p": Bucket("720p", 51, "0.56", 720, 1280, 2),
    "480p": Bucket("480p", 1, "0.56", 480, 854, 89),
    "long": Bucket("360p", 408, "0.56", 360, 640, 1),
}
# docs/performance.md: seconds and GB of a micro batch by GPU, number of GPUs and tokens at once
MEASURED = {
    ("h200", 1, 22_000): {
        "144p": (1.730, 65.7),
        "240p": (1.927, 70.5),
        "360p": (1.881, 69.7),
        "720p": (2.551, 70.2),
        "480p": (2.359, 68.7),
        "long": (2.435, 69.9),
    },
    ("h200", 2, 28_000): {
        "144p": (1.688, 73.5),
        "240p": (1.895, 73.4),
        "360p": (1.761, 72.7),
        "720p": (2.359, 73.5),
        "480p": (2.401, 74.4),
        "long": (2.455, 71.5),
    },
    ("h200", 1, 54_000): {
        "144p": (1.689, 102.8),
        "360p": (1.737, 136.6),
        "720p": (2.028, 137.6),
        "long": (2.263, 134.7),
    },
    ("h200", 2, 54_000): {
        "144p": (1.688, 93.2),
        "360p": (1.760, 127.0),
        "720p": (2.041, 128.0),
        "long": (2.312, 125.1),
    },
    ("h100", 2, 28_000): {
        "144p": (1.76, 74),
        "240p": (2.00, 74),
        "360p": (1.87, 73),
        "720p": (2.54, 74),
        "480p": (2.47, 75),
    },
}
ENCODERS_S = {"144p": 1.597, "240p": 1.556, "360p": 1.423, "720p": 1.463, "480p": 1.044}  # H200
# what a rehearsal on two H200 printed of its first bucket, in seconds and bytes
IMAGES = {"name": "480p/1/0.56", "seconds": 3.51, "peak_bytes": 83.9e9}
ROWS = [(*where, name) for where, rows in MEASURED.items() for name in rows]
WITHIN = 0.1


@pytest.mark.parametrize(("gpu", "ranks", "at_once", "name"), ROWS)
def test_seconds_and_memory_of_a_bucket_are_those_measured(gpu, ranks, at_once, name):
    bucket, model = BUCKETS[name], replace(MODEL, tokens_at_once=at_once)
    seconds, gigabytes = MEASURED[gpu, ranks, at_once][name]
    assert model_s(bucket, model, GPUS[gpu]) == pytest.approx(seconds, rel=WITHIN)
    found = memory(bucket, model, ranks=ranks, cached=True)
    assert found / 1e9 == pytest.approx(gigabytes, rel=0.05)


@pytest.mark.parametrize("name", ["144p", "360p"])
def test_a_rehearsal_with_fresh_features_has_the_memory_and_the_seconds_that_were_reckoned(name):
    found = json.loads((RECORDED / f"rehearsed-{name}.json").read_text())
    seconds = found["seconds"] - found["encode_s"] - found["data_s"]
    assert model_s(BUCKETS[name], MODEL, GPUS["h200"]) == pytest.approx(seconds, rel=0.05)
    reckoned = memory(BUCKETS[name], MODEL, ranks=1, cached=False)
    assert reckoned == pytest.approx(found["peak_bytes"], rel=0.05)


def rehearsed():
    """Number of GPUs, bucket."""
    yield 2, IMAGES
    for file in ("rehearsed-1gpu.json", "rehearsed-2gpu.json"):
        found = json.loads((RECORDED / file).read_text())
        yield from ((found["world_size"], one) for one in found["buckets"])


def test_whole_steps_and_memory_of_five_buckets_are_those_of_a_rehearsal():
    for ranks, one in rehearsed():
        bucket = BUCKETS[one["name"].partition("/")[0]]
        seconds = model_s(bucket, MODEL, GPUS["h200"]) + encoders_s(bucket, GPUS["h200"])
        assert seconds == pytest.approx(one["seconds"], rel=WITHIN)
        reckoned = memory(bucket, MODEL, ranks=ranks, cached=False)
        assert reckoned == pytest.approx(one["peak_bytes"], rel=0.05)


@pytest.mark.parametrize("name", ENCODERS_S)
def test_seconds_of_encoders_are_those_measured(name):
    assert encoders_s(BUCKETS[name], GPUS["h200"]) == pytest.approx(ENCODERS_S[name], rel=WITHIN)


@pytest.mark.parametrize("name", BUCKETS)
def test_the_work_is_that_of_the_trainer(name):
    bucket = BUCKETS[name]
    size = (bucket.latent_frames, bucket.height // 8, bucket.width // 8)
    counted = forward_flops(STDiT3Config(), bucket.batch_size, *size, 130 * bucket.batch_size)
    assert sum(flops(bucket, NETWORKS[MODEL.arch])) == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("mode", ["none", "every_block", 2])
@pytest.mark.parametrize("at_once", [0, 22_000, 28_000, 54_000])
@pytest.mark.parametrize("name", BUCKETS)
def test_as_many_blocks_are_recomputed_as_the_trainer_recomputes(name, at_once, mode):
    bucket, model = BUCKETS[name], replace(MODEL, tokens_at_once=at_once, grad_checkpoint=mode)
    with torch.device("meta"):
        network = STDiT3(STDiT3Config(hidden_size=16, num_heads=2))
    network.set_grad_checkpoint(mode, at_once)
    shape = (bucket.batch_size, 4, bucket.latent_frames, bucket.height // 8, bucket.width // 8)
    batch = NoisedBatch(*[torch.empty(shape[:1])] * 3, conditions={})
    largest = max(map(len, batch.chunks(network.clips_at_once(shape))))
    again = network._recomputed(largest * bucket.latent_frames * bucket.patches)
    assert recomputed(bucket, model) == pytest.approx(len(again) / 56, abs=0.01)
