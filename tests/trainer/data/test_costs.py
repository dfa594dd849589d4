from dataclasses import replace

import numpy as np
import pytest

from trainer.config import load_stage
from trainer.data.buckets import Bucket, assign, bucket_rules
from trainer.data.costs import costs_of, work
from trainer.model.flops import forward_flops
from trainer.model.stdit3 import STDiT3Config

SMALL = Bucket("144p", 51, "0.56", 144, 256, batch_size=51)
LARGE = Bucket("720p", 102, "0.56", 720, 1280, batch_size=1)
IMAGE = Bucket("1024", 1, "1.00", 1024, 1024, batch_size=36)


def buckets_of(stage):
    class NoClips:
        num_frames = height = width = np.zeros(0, dtype=int)

    settings = load_stage(stage).config.buckets
    rules = bucket_rules(settings.frames, settings.batch_size, settings.keep)
    return [bucket for bucket in assign(NoClips, rules, 0, 0).buckets if bucket.batch_size]


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_the_work_of_a_shape_is_that_of_transformer_vae_and_captions(stage):
    for bucket in buckets_of(stage):
        transformer = 4 * forward_flops(
            STDiT3Config(),
            bucket.batch_size,
            bucket.latent_frames,
            bucket.height // 8,
            bucket.width // 8,
            300 * bucket.batch_size,
        )
        pixels = bucket.frames * bucket.height * bucket.width
        others = bucket.batch_size * (6.1e6 * pixels + 2.8e12)
        assert work(bucket) == pytest.approx(transformer + others, rel=0.02), bucket.name


def test_without_measurements_a_bucket_costs_its_work():
    assert costs_of([SMALL, LARGE], {}).tolist() == [work(SMALL), work(LARGE)]


def test_a_bucket_that_was_not_measured_counts_at_the_average_speed_of_the_others():
    seconds = {SMALL.name: 3.0, LARGE.name: 2.0, "1080p/1/0.56": 9.0}
    speed = (work(SMALL) + work(LARGE)) / 5
    assert costs_of([SMALL, LARGE, IMAGE], seconds).tolist() == [3, 2, work(IMAGE) / speed]


def test_a_measured_bucket_that_takes_nothing_any_more_tells_no_speed():
    nothing = replace(SMALL, batch_size=0)
    assert costs_of([nothing, LARGE], {SMALL.name: 3.0}).tolist() == [0.0, work(LARGE)]
