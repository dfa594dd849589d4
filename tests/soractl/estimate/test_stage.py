import pytest

from soractl.errors import SoractlError
from soractl.estimate.rates import GPUS
from soractl.estimate.stage import estimate


def test_a_stage_takes_what_its_steps_take(table):
    estimated = estimate("stage1", table, 2, GPUS["h200"])
    assert estimated.epochs == 5
    assert estimated.all_steps == 5 * estimated.steps > 0
    # a step takes as long as its slowest rank, so never less than an equal share of all work
    work = sum(row.batches * row.model_s for row in estimated.rows)
    assert 0.45 * work < estimated.cached_s < 1.1 * work
    assert estimated.fresh_s > estimated.cached_s
    assert estimated.gpu_hours(cached=True) == pytest.approx(2 * 5 * estimated.cached_s / 3600)


def test_a_last_step_and_accumulation_shorten_a_stage(table):
    whole = estimate("stage1", table, 2, GPUS["h200"])
    short = estimate("stage1", table, 2, GPUS["h200"], ["trainer.max_steps=7"])
    assert (short.all_steps, short.wall_s(cached=True)) == (7, 7 * whole.cached_s / whole.steps)
    double = estimate("stage1", table, 2, GPUS["h200"], ["optim.accumulate=2"])
    assert double.steps == -(-whole.steps // 2)
    assert double.gpu_hours(cached=True) == pytest.approx(whole.gpu_hours(cached=True), rel=0.02)


def test_a_table_without_a_step_is_refused(table):
    with pytest.raises(SoractlError, match="has no step for 100000 ranks"):
        estimate("stage1", table, 100_000, GPUS["h200"])
