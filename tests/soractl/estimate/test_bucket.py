from dataclasses import replace

import pytest
import torch

from soractl.estimate.bucket import encoders_s, flops, memory, model_s, recomputed
from soractl.estimate.rates import GPUS, NETWORKS
from trainer.config import load_stage
from trainer.data.buckets import Bucket
from trainer.model.flops import forward_flops
from trainer.model.stdit3 import STDiT3, STDiT3Config

MODEL = load_stage("stage1").config.model
BUCKETS = {
    "144p": Bucket("144p", 51, "0.56", 144, 256, 51),
    "240p": Bucket("240p", 51, "0.56", 240, 426, 20),
    "360p": Bucket("360p", 51, "0.56", 360, 640, 8),
    "720p": Bucket("720p", 51, "0.56", 720, 1280, 2),
    "480p": Bucket("480p", 1, "0.56", 480, 854, 89),
}
# docs/performance.md: seconds and GB of a micro batch on one H200, parts of 22,000 tokens, and on
# two H100s, parts of 28,000; seconds of VAE and T5 on the H200
MEASURED = {
    "144p": ((1.702, 65.7), (1.76, 74), 1.369),
    "240p": ((1.911, 70.5), (2.00, 74), 1.328),
    "360p": ((1.866, 69.7), (1.87, 73), 1.173),
    "720p": ((2.452, 70.2), (2.54, 74), 1.262),
    "480p": ((2.349, 68.7), (2.47, 75), 1.035),
}
WITHIN = 0.1


@pytest.mark.parametrize("name", BUCKETS)
@pytest.mark.parametrize(
    ("gpu", "place", "ranks", "at_once"), [("h200", 0, 1, 22_000), ("h100", 1, 2, 28_000)]
)
def test_seconds_and_memory_of_a_bucket_are_those_measured(name, gpu, place, ranks, at_once):
    bucket = BUCKETS[name]
    seconds, gigabytes = MEASURED[name][place]
    model = replace(MODEL, tokens_at_once=at_once)
    assert model_s(bucket, model, GPUS[gpu]) == pytest.approx(seconds, rel=WITHIN)
    found = memory(bucket, model, ranks=ranks, cached=True)
    assert found / 1e9 == pytest.approx(gigabytes, rel=WITHIN)


@pytest.mark.parametrize("name", BUCKETS)
def test_seconds_of_encoders_are_those_measured(name):
    assert encoders_s(BUCKETS[name], GPUS["h200"]) == pytest.approx(MEASURED[name][2], rel=WITHIN)


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
    clips = min(bucket.batch_size, network.clips_at_once(shape))
    again = network._recomputed(clips * bucket.latent_frames * bucket.patches)
    assert recomputed(bucket, model) == pytest.approx(len(again) / 56, abs=0.01)
