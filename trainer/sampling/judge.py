"""Measures of a video without any network: what a number can say about its frames."""

import torch
from torch import Tensor
from torch.nn import functional

_LUMA = torch.tensor([0.299, 0.587, 0.114])  # BT.601
_FLICKER_BLOCK = 16  # pixels; what moves less than this between two frames is no flicker
_COLOUR_BLOCKS = 4  # a side of the grid of mean colours


def measures_of(video: Tensor) -> dict[str, object]:
    """Measures of uint8 [T, H, W, 3], which travel in the video's manifest.

    Levels are of luma (BT.601), 0 to 255. A measure that needs more frames than there are is None.

    - `motion`: mean absolute change of a pixel from frame to frame, in levels.
    - `flicker`: mean absolute distance of a block of 16 x 16 pixels from the mean of the frames
      before and after it, in levels: smooth motion cancels out, jumps of brightness do not.
    - `sharpness`: mean absolute Laplacian (four neighbours) of a pixel, in levels.
    - `saturation`: mean of (max - min) / max over red, green and blue, 0 to 1, as in HSV.
    - `contrast`: standard deviation of luma within a frame, the largest of all frames, in levels.
    - `colours`: mean red, green, blue of 4 x 4 blocks over all frames, 48 levels by row.
    """
    luma_before: Tensor | None = None
    blocks, motion, sharpness, saturation, contrast, colours = [], [], [], [], [], []
    for frame in video.cpu():  # one at a time: 4 s of 720p are 1.1 GB as floats
        values = frame.float()
        luma = values @ _LUMA
        if luma_before is not None:
            motion.append((luma - luma_before).abs().mean())
        luma_before = luma
        blocks.append(_block_means(luma))
        sharpness.append(_laplacian(luma).abs().mean())
        highest = values.amax(2)
        saturation.append(((highest - values.amin(2)) / highest.clamp(min=1)).mean())
        contrast.append(luma.std(correction=0))
        colours.append(functional.adaptive_avg_pool2d(values.permute(2, 0, 1), _COLOUR_BLOCKS))
    return {
        "motion": _mean(motion),
        "flicker": _flicker(torch.stack(blocks)),
        "sharpness": _mean(sharpness),
        "saturation": _mean(saturation),
        "contrast": round(float(torch.stack(contrast).max()), 4),
        "colours": _levels(torch.stack(colours).mean(0)),
    }


def _block_means(luma: Tensor) -> Tensor:
    height, width = (max(1, size // _FLICKER_BLOCK) for size in luma.shape)
    return functional.adaptive_avg_pool2d(luma[None], (height, width))[0]


def _flicker(blocks: Tensor) -> float | None:
    if len(blocks) < 3:
        return None
    between = (blocks[:-2] + blocks[2:]) / 2
    return round(float((blocks[1:-1] - between).abs().mean()), 4)


def _laplacian(luma: Tensor) -> Tensor:
    inner = luma[1:-1, 1:-1]
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return around - 4 * inner


def _mean(values: list[Tensor]) -> float | None:
    return round(float(torch.stack(values).mean()), 4) if values else None


def _levels(colours: Tensor) -> list[float]:
    """[3, rows, columns] as a list by row, column and colour."""
    return [round(level, 1) for level in colours.permute(1, 2, 0).flatten().tolist()]
