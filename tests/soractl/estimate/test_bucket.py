import pytest

from soractl.estimate.bucket import encoders_s, flops, memory, model_s
from soractl.estimate.rates import GPUS, NETWORKS
from trainer.data.buckets import Bucket
from trainer.model.flops import forward_flops
from trainer.model.stdit3 import STDiT3Config

XL = NETWORKS["STDiT3-XL/2"]
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
    assert model_s(bucket, XL, GPUS[gpu]) == pytest.approx(seconds, rel=WITHIN)
    found = memory(bucket, XL, ranks=ranks, tokens_at_once=at_once, cached=True)
    assert found / 1e9 == pytest.approx(gigabytes, rel=WITHIN)


@pytest.mark.parametrize("name", BUCKETS)
def test_seconds_of_encoders_are_those_measured(name):
    assert encoders_s(BUCKETS[name], GPUS["h200"]) == pytest.approx(MEASURED[name][2], rel=WITHIN)


@pytest.mark.parametrize("name", BUCKETS)
def test_the_work_is_that_of_the_trainer(name):
    bucket = BUCKETS[name]
    size = (bucket.latent_frames, bucket.height // 8, bucket.width // 8)
    counted = forward_flops(STDiT3Config(), bucket.batch_size, *size, 130 * bucket.batch_size)
    assert sum(flops(bucket, XL)) == pytest.approx(counted, rel=0.02)
