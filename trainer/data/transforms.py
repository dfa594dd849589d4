"""Resize and crop to a bucket's size, with the roundings of the published weights' training."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class ResizeCrop:
    """Scale until the target is covered, then cut the middle out."""

    scaled: tuple[int, int]  # (height, width)
    excess: tuple[int, int]  # of scaled over target


def resize_crop(source: tuple[int, int], target: tuple[int, int]) -> ResizeCrop:
    """Scale and crop that bring a frame of (height, width) `source` to `target`."""
    (height, width), (wanted_height, wanted_width) = source, target
    by_height, by_width = wanted_height / height, wanted_width / width
    if by_height > by_width:
        scaled = wanted_height, round(width * by_height)
    else:
        scaled = round(height * by_width), wanted_width
    return ResizeCrop(scaled, (scaled[0] - wanted_height, scaled[1] - wanted_width))


def video_frame(
    frame: np.ndarray[Any, Any], target: tuple[int, int], shown: tuple[int, int] | None = None
) -> Tensor:
    """One frame, uint8 [h, w, 3], as float32 [3, H, W] in [-1, 1]; bilinear without antialias.

    `shown` is its (height, width) in square pixels, if that is not the frame's own.
    """
    plan = resize_crop(shown or (frame.shape[0], frame.shape[1]), target)
    # In place: fresh memory for a second frame of this size would cost more than the resize.
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float().div_(255)
    scaled = F.interpolate(pixels, size=plan.scaled, mode="bilinear", align_corners=False)[0]
    top, left = (excess // 2 for excess in plan.excess)
    return _normalise(scaled[:, top : top + target[0], left : left + target[1]])


def image(picture: Image.Image, target: tuple[int, int]) -> Tensor:
    """A picture as float32 [3, H, W] in [-1, 1]; bicubic."""
    plan = resize_crop((picture.height, picture.width), target)
    scaled = picture.resize((plan.scaled[1], plan.scaled[0]), Image.Resampling.BICUBIC)
    top, left = (round(excess / 2) for excess in plan.excess)
    cut = scaled.crop((left, top, left + target[1], top + target[0]))
    return _normalise(torch.from_numpy(np.array(cut)).permute(2, 0, 1).float() / 255)


def _normalise(pixels: Tensor) -> Tensor:
    return (pixels - 0.5) / 0.5
