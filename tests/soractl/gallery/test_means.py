import random
from statistics import fmean

import pytest

from soractl.gallery.means import Mean, mean_of, paired_difference


def test_the_interval_holds_the_true_mean_in_about_95_of_100_draws():
    draw = random.Random(7)
    held = 0
    for _ in range(200):
        found = mean_of([draw.gauss(5.0, 2.0) for _ in range(32)])
        held += found.low <= 5.0 <= found.high
    assert 176 <= held <= 200  # 0.95 less three standard deviations, and what 32 values cost


def test_one_value_has_no_width_and_none_has_no_mean():
    assert mean_of([3.0]) == Mean(3.0, 3.0, 3.0, 1)
    assert mean_of([]) is None


def test_a_small_shift_of_every_video_is_seen_though_videos_differ_much():
    draw = random.Random(1)
    before = [draw.uniform(0, 100) for _ in range(16)]
    now = [value + draw.uniform(0.5, 1.5) for value in before]
    found = paired_difference(now, before)
    assert found.mean == pytest.approx(fmean(now) - fmean(before))
    assert (found.p < 0.01, found.n) == (True, 16)


def test_no_shift_is_not_significant_and_gaps_are_left_out():
    assert paired_difference([1.0, 2.0, 3.0, None], [2.0, 1.0, 3.0, 9.0]).p > 0.5
    assert paired_difference([1.0, 2.0, None, 4.0], [1.5, None, 1.0, 4.5]).n == 2
    assert paired_difference([1.0, None], [2.0, 3.0]) is None
    assert paired_difference([5.0, 5.0], [5.0, 5.0]).p == 1.0
