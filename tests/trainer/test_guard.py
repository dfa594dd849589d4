import math
import statistics

import pytest
import torch

from trainer.guard import MEMORY, Guard

USUAL = [1 + 0.1 * math.sin(step) for step in range(MEMORY)]


def judged(guard, norms):
    return [bool(guard.skips(torch.tensor(norm))) for norm in norms]


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_left_out_from_the_first_step_on(norm):
    guard = Guard()
    assert judged(guard, [norm, 1.0, norm, norm, 1e9]) == [True, False, True, True, False]
    assert guard.counts.tolist() == [3, 0]
    assert guard.recent_norms == [1.0, 1e9]


def test_a_norm_above_the_factor_times_the_median_is_left_out():
    guard = Guard(spike_factor=5)
    assert not any(judged(guard, USUAL))
    limit = 5 * statistics.median_low(torch.tensor(USUAL).tolist())
    assert judged(guard, [limit * 1.001, limit * 1.001, limit * 0.999]) == [True, True, False]
    assert guard.counts.tolist() == [2, 0]


def test_what_is_left_out_does_not_move_the_median():
    guard = Guard(spike_factor=5)
    judged(guard, USUAL)
    assert all(judged(guard, [100.0] * 3 * MEMORY))
    assert guard.counts.tolist() == [3 * MEMORY, 3 * MEMORY]
    assert judged(guard, [1.0]) == [False]
    assert guard.counts.tolist() == [3 * MEMORY, 0]


def test_a_norm_that_grows_slowly_is_followed():
    guard = Guard(spike_factor=5)
    assert not any(judged(guard, [1.03**step for step in range(6 * MEMORY)]))


def test_no_step_spikes_before_there_is_a_usual_norm():
    assert not any(judged(Guard(spike_factor=2), [10.0**step for step in range(30)]))


def test_without_a_factor_nothing_finite_spikes():
    assert not any(judged(Guard(), [*USUAL, 1e30]))


@pytest.mark.parametrize("steps", [0, 7, MEMORY, MEMORY + 13])
def test_restored_it_judges_and_forgets_as_if_it_had_seen_all(steps):
    whole, early = Guard(spike_factor=2), Guard(spike_factor=2)
    past = [math.nan, *[1 + step / 40 for step in range(steps)]]
    later = [1.9 + step / 40 for step in range(2 * MEMORY)]
    judged(whole, past)
    judged(early, past)
    resumed = Guard(spike_factor=2)
    resumed.restore(early.recent_norms, skipped=int(early.counts[0]))
    assert judged(resumed, later) == judged(whole, later)
    assert resumed.recent_norms == whole.recent_norms
    assert resumed.counts[0] == whole.counts[0]
