import torch

from trainer.config import load_stage
from trainer.distributed.optimizer import begin_state, make_optimizer, prepare_step

OPTIM = load_stage("stage1").config.optim


def test_the_state_made_beforehand_is_the_one_that_a_first_step_makes():
    steps = []
    for beforehand in (False, True):
        weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = make_optimizer([weight], OPTIM)
        if beforehand:
            begin_state(optimizer, [weight])
        weight.grad = torch.tensor([0.5, 0.25])
        optimizer.step()
        steps.append({"weight": weight.detach(), **optimizer.state[weight]})
    assert steps[0].keys() == steps[1].keys()
    for name, value in steps[0].items():
        assert torch.equal(value, steps[1][name]), name


def test_a_step_is_left_out_or_its_gradients_are_divided():
    moved = []
    for skip, divisor in ((True, None), (False, None), (False, torch.tensor(2.0))):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = make_optimizer([weight], OPTIM)
        begin_state(optimizer, [weight])
        prepare_step(optimizer, torch.tensor(skip), divisor)
        weight.grad = torch.tensor([0.5])
        optimizer.step()
        moved.append(optimizer.state[weight]["exp_avg"].item())
    assert moved[0] == 0.0
    assert moved[2] == moved[1] / 2
