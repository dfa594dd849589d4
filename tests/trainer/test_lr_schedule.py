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
    np.testing.assert_allclose(rates, expected, rtol=2e-6, atol=1e-10)


def test_the_linear_bump_rises_and_then_falls():
    config = dataclasses.replace(STAGE4, anneal="linear")
    rates = [learning_rate(step, config) for step in (0, 200, 400, 600, 800)]
    np.testing.assert_allclose(rates, [1.6e-5, 3.28e-4, 6.4e-4, 4e-4, 1.6e-4], rtol=1e-9)


def test_a_schedule_built_in_the_middle_goes_on_with_the_rates_of_its_own_config():
    adamw = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    config = dataclasses.replace(STAGE1, lr=8e-5)
    schedule = build_lr_schedule(adamw, config, 250)
    rates = []
    for _ in range(3):
        rates.append(schedule.get_last_lr()[0])
        adamw.step()
        schedule.step()
    assert rates == pytest.approx([learning_rate(step, config) for step in (250, 251, 252)])
    assert adamw.param_groups[0]["lr"] == pytest.approx(learning_rate(253, config))
