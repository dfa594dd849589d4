import dataclasses

import numpy as np
import pytest
import torch

from trainer.config import load_stage
from trainer.lr_schedule import build_lr_schedule, learning_rate

STAGE1 = load_stage("stage1").config.optim
STAGE4 = load_stage("stage4").config.optim


@pytest.mark.parametrize(
    ("name", "config"), [("linear_warmup_400", STAGE1), ("onecycle_cos", STAGE4)]
)
def test_every_step_has_the_published_rate(golden, name, config):
    expected = np.load(golden / "lr_schedules.npz")[name]
    rates = [learning_rate(step, config) for step in range(len(expected))]
    # the published cosine was rounded to fp32 on its way
    np.testing.assert_allclose(rates, expected, rtol=2e-6, atol=1e-10)


def test_the_linear_bump_rises_and_then_falls():
    config = dataclasses.replace(STAGE4, anneal="linear")
    rates = [learning_rate(step, config) for step in (0, 100, 200, 400, 600, 799, 800, 10**6)]
    expected = [1.6e-5, 1.72e-4, 3.28e-4, 6.4e-4, 4e-4, 1.612e-4, 1.6e-4, 1.6e-4]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


def test_without_warm_up_the_first_step_has_the_full_rate():
    at_once = {"warmup_steps": 0, "cooldown_steps": 0}
    assert learning_rate(0, dataclasses.replace(STAGE1, **at_once)) == STAGE1.lr
    assert learning_rate(0, dataclasses.replace(STAGE4, **at_once)) == STAGE4.lr
    falling = dataclasses.replace(STAGE4, warmup_steps=0)
    assert learning_rate(0, falling) == STAGE4.max_lr


def test_one_cycle_without_its_bounds_is_refused():
    with pytest.raises(ValueError, match="needs min_lr and max_lr"):
        learning_rate(0, dataclasses.replace(STAGE4, max_lr=None))


@pytest.mark.parametrize("config", [STAGE1, STAGE4])
@pytest.mark.parametrize("start", [0, 1, 250, 5000])
def test_a_schedule_built_at_any_step_goes_on_with_the_rates_of_its_config(config, start):
    adamw = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=123.0)
    adamw.param_groups[0]["initial_lr"] = 456.0  # as a saved optimizer may have it
    schedule = build_lr_schedule(adamw, config, start)
    rates = []
    for _ in range(3):
        assert adamw.param_groups[0]["lr"] == schedule.get_last_lr()[0]
        rates += schedule.get_last_lr()
        adamw.step()
        schedule.step()
    assert rates == [learning_rate(step, config) for step in range(start, start + 3)]
    assert {type(rate) for rate in rates} == {float}


def test_a_rate_of_zero_is_a_schedule_too():
    adamw = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    schedule = build_lr_schedule(adamw, dataclasses.replace(STAGE1, lr=0.0), 0)
    assert schedule.get_last_lr() == [0.0]
