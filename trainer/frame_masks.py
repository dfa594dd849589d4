"""Frame masks: latent frames of a clip that are trained on; the others are given as conditions.

The kinds and their draws are those of Open-Sora 1.2 (`opensora/utils/train_utils.py`).
"""

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainer.config import MasksConfig


def draw_frame_masks(
    config: MasksConfig, latent_frames: int, seeds: Sequence[int]
) -> Tensor | None:
    """[B, T] bool, True = trained on, a pure function of each clip's seed; None if all are True."""
    if latent_frames < 2 or not any(getattr(config, kind) for kind in _GIVEN):
        return None
    masks = [_draw(config, latent_frames, random.Random(seed)) for seed in seeds]
    if all(all(mask) for mask in masks):
        return None
    return torch.tensor(masks)


def _draw(config: MasksConfig, frames: int, rng: random.Random) -> list[bool]:
    share, total = rng.random(), 0.0
    for kind, draw_given in _GIVEN.items():
        total += getattr(config, kind)
        if share < total:
            given = draw_given(frames, rng)
            trained = [frame not in given for frame in range(frames)]
            return trained if any(trained) else [*trained[:-1], True]
    return [True] * frames


def _quarter(frames: int, rng: random.Random) -> int:
    return rng.randint(1, max(1, frames // 4))


def _quarter_random(frames: int, rng: random.Random) -> set[int]:
    length = _quarter(frames, rng)
    start = rng.randint(0, frames - length)
    return set(range(start, start + length))


def _quarter_head(frames: int, rng: random.Random) -> set[int]:
    return set(range(_quarter(frames, rng)))


def _quarter_tail(frames: int, rng: random.Random) -> set[int]:
    return set(range(frames - _quarter(frames, rng), frames))


def _quarter_head_tail(frames: int, rng: random.Random) -> set[int]:
    length = _quarter(frames, rng)
    return {*range(length), *range(frames - length, frames)}


def _interpolate(frames: int, rng: random.Random) -> set[int]:
    return set(range(rng.randint(0, 1), frames, 2))


def _random(frames: int, rng: random.Random) -> set[int]:
    share = rng.uniform(0.1, 0.9)
    return {frame for frame in range(frames) if rng.random() <= share}


_GIVEN: dict[str, Callable[[int, random.Random], set[int]]] = {
    "random": _random,
    "interpolate": _interpolate,
    "quarter_random": _quarter_random,
    "quarter_head": _quarter_head,
    "quarter_tail": _quarter_tail,
    "quarter_head_tail": _quarter_head_tail,
    "image_random": lambda frames, rng: {rng.randrange(frames)},
    "image_head": lambda frames, rng: {0},
    "image_tail": lambda frames, rng: {frames - 1},
    "image_head_tail": lambda frames, rng: {0, frames - 1},
}
