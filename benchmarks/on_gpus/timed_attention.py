"""Seconds of attention in frames of one part, by the library's kernels and by those we use."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.on_gpus.shapes import Shape

HEADS, WIDTH = 16, 72  # of STDiT3-XL/2
PART = 27_600  # tokens, about what goes through the network at once
_ROUNDS = 10


def time_attention(shapes: tuple[Shape, ...], say: Callable[[str], None]) -> None:
    """A line a shape: ms forward and backward, and TFLOP/s with backward as 2 and 2.5 of it."""
    from trainer.model.kernels.frames import AttendInFrames, takes

    weight = torch.ones(WIDTH, device="cuda").bfloat16()
    columns = ("ms", "BACK", "3 PASSES", "3.5")
    say(f"{'attention in frames':34}{'':28}" + "".join(f"{name:>10}" for name in columns * 2))
    for shape in shapes:
        clip, of_frame = (
            shape.tokens // shape.clips,
            shape.tokens // shape.clips // shape.latents[2],
        )
        frames = max(1, round(PART / clip)) * shape.latents[2]
        qkv = torch.randn(1, frames, of_frame, 3, HEADS, WIDTH, device="cuda").bfloat16()
        q, k, v = (part.requires_grad_() for part in qkv.unbind(-3))
        q, k = q.detach().contiguous().requires_grad_(), k.detach().contiguous().requires_grad_()
        ways = {"library": lambda q=q, k=k, v=v: _library(q, k, v)}
        if takes(q):
            ways["ours"] = lambda q=q, k=k, v=v: AttendInFrames.apply(q, k, v, weight, weight)
        flops = 4 * frames * HEADS * of_frame**2 * WIDTH
        cells = [cell for way in ways.values() for cell in _cells(way, (q, k, v), flops)]
        say(f"{', '.join(ways):34}{shape!s:28}" + "".join(f"{cell:>10}" for cell in cells))


def _library(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    parts = (part.flatten(0, 1).transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(*parts).transpose(1, 2).unflatten(0, (1, -1))


def _cells(attend: Callable[[], Tensor], given: tuple[Tensor, ...], flops: int) -> list[str]:
    out = attend()
    weight = torch.randn_like(out)
    forward = _ms(attend)
    backward = _ms(lambda: torch.autograd.grad(out, given, weight, retain_graph=True))
    rate = flops / (forward + backward) / 1e9
    return [f"{forward:.3f}", f"{backward:.3f}", f"{3 * rate:.0f}", f"{3.5 * rate:.0f}"]


def _ms(action: Callable[[], Any]) -> float:
    for _ in range(3):
        action()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(_ROUNDS):
        action()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / _ROUNDS
