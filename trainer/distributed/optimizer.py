"""The optimizer of every run, AdamW: its making, its first state, and its arguments in a step.

Another one changes this module alone: nothing else knows its arguments or its state.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from trainer.config import OptimConfig


def make_optimizer(parameters: Iterable[nn.Parameter], optim: OptimConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) with a stage's settings."""
    return torch.optim.AdamW(
        parameters,
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        fused=True,  # its kernel clips gradients and leaves out a step without asking the host
    )


def begin_state(optimizer: torch.optim.Optimizer, masters: Sequence[Tensor]) -> None:
    """The state before the first step, which would make it itself, for masters of any shape."""
    for master in masters:
        optimizer.state[master] = {
            "step": torch.zeros((), dtype=torch.float32, device=master.device),
            "exp_avg": torch.zeros_like(master),
            "exp_avg_sq": torch.zeros_like(master),
        }


def prepare_step(
    optimizer: torch.optim.Optimizer, skip: Tensor, divisor: Tensor | None = None
) -> None:
    """Arguments of the fused kernel, on its device: a step to leave out, and a divisor.

    `skip` is a bool scalar; gradients are divided by `divisor`, an fp32 scalar.
    """
    optimizer.found_inf = skip.float()  # read by the fused kernel
    if divisor is not None:
        optimizer.grad_scale = divisor
