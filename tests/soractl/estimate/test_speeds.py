from dataclasses import replace

import pytest

from soractl.estimate import measured, rehearsals
from soractl.estimate.rates import GPUS
from soractl.estimate.speeds import Speeds
from tests.soractl.estimate.measuring import config, rehearsal
from trainer.data.buckets import Bucket

MODEL = config().model
BUCKET = Bucket("360p", 51, "0.56", 360, 640, 8)
OTHER = Bucket("144p", 51, "0.56", 144, 256, 51)


def test_measured_seconds_are_split_and_rates_are_scaled_by_them(tmp_path):
    rehearsals.write(tmp_path, rehearsal(config()))
    found = measured.find(tmp_path, "stage1", config())
    speeds = Speeds.of([BUCKET, OTHER], MODEL, GPUS["h200"], found)
    assert (speeds.model_s(BUCKET), speeds.encoders_s(BUCKET)) == (2.5, 1.5)
    rates = Speeds(MODEL, GPUS["h200"], None)
    assert speeds.factor == pytest.approx(2.5 / rates.model_s(BUCKET))
    assert speeds.model_s(OTHER) == pytest.approx(speeds.factor * rates.model_s(OTHER))
    upright = replace(BUCKET, ratio="1.78", height=640, width=360)
    assert speeds.model_s(upright) == 2.5  # as the one of its resolution and length
    assert [speeds.is_measured(one) for one in (BUCKET, upright, OTHER)] == [True, True, False]
