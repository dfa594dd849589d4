"""Optimizer step -> learning rate: linear warm-up, or one cycle of bump and anneal."""

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainer.config import OptimConfig


def learning_rate(step: int, config: OptimConfig) -> float:
    """The rate of optimizer step `step`, counted from 0."""
    if config.schedule == "warmup":
        return config.lr * min(1.0, (step + 1) / (config.warmup_steps + 1))
    low, high = _bounds(config)
    if step < config.warmup_steps:
        return _anneal(low, high, step / config.warmup_steps, config.anneal)
    cooled = step - config.warmup_steps
    if cooled < config.cooldown_steps:
        return _anneal(high, config.lr, cooled / config.cooldown_steps, config.anneal)
    return config.lr


def build_lr_schedule(optimizer: Optimizer, config: OptimConfig, step: int) -> LambdaLR:
    """The schedule at `step`, from the config alone, so that a resumed run takes its rate."""
    for group in optimizer.param_groups:
        group["initial_lr"] = 1.0  # LambdaLR multiplies it with what the function gives
    return LambdaLR(optimizer, partial(learning_rate, config=config), last_epoch=step - 1)


def _bounds(config: OptimConfig) -> tuple[float, float]:
    if config.min_lr is None or config.max_lr is None:
        raise ValueError("schedule one_cycle needs min_lr and max_lr")
    return config.min_lr, config.max_lr


def _anneal(start: float, end: float, share: float, shape: str | None) -> float:
    if shape == "cos":
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
    return start + (end - start) * share
