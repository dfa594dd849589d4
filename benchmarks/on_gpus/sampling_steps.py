"""Seconds of a sampling step with guidance: its halves together, one by one, and the plain way."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmarks.on_gpus.timed_sampling import RATIO
from benchmarks.on_gpus.trained import PlainBlock
from trainer.config import TrainConfig
from trainer.data.resolutions import frame_count, image_size
from trainer.model import build as networks
from trainer.model.flops import forward_flops
from trainer.model.latent_size import latent_size
from trainer.rectified_flow import RectifiedFlow

STEPS = 3  # in a row; the first builds kernels
COLUMNS = ("TOGETHER S", "TFLOP/S", "ONE BY ONE S", "TIMES", "PLAIN S", "TIMES", "TOKENS")


class Steps:
    """One network, stepped in three ways."""

    def __init__(self, config: TrainConfig, rounds: int) -> None:
        self.rounds, self.flow = rounds, RectifiedFlow(config.flow)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with self.device:
            model = networks.build_model(config)
        self.model = model.to(torch.bfloat16).eval().requires_grad_(False)

    def run(self, films: tuple[tuple[str, str], ...]) -> None:
        """A line a film."""
        print(f"\n{'':16}" + "".join(f"{name:>14}" for name in COLUMNS), flush=True)
        for film in films:
            name = " ".join(film)
            print(f"{name:16}" + "".join(f"{cell:>14}" for cell in self._cells(film)), flush=True)

    def _cells(self, film: tuple[str, str]) -> list[str]:
        height, width = image_size(film[1], RATIO)
        size = latent_size((frame_count(film[0]), height, width))
        found: dict[str, list[float]] = {"together": [], "one by one": [], "plain": []}
        for _ in range(self.rounds):
            found["together"].append(self._step_s(self.model, size, (height, width)))
            found["one by one"].append(self._step_s(self._by_halves, size, (height, width)))
            with plain_blocks(self.model):
                found["plain"].append(self._step_s(self.model, size, (height, width)))
        together, halves, plain = (min(seconds) for seconds in found.values())
        captions = 2 * len(self.model.null_caption)
        flops = forward_flops(self.model.config, 2, *size, caption_tokens=captions)
        frames, rows, columns = size
        return [
            *(f"{together:.3f}", f"{flops / together / 1e12:.0f}"),
            *(f"{halves:.3f}", f"{halves / together:.2f}"),
            *(f"{plain:.3f}", f"{plain / together:.2f}"),
            str(2 * frames * -(-rows // 2) * -(-columns // 2)),
        ]

    def _by_halves(self, z: Tensor, t: Tensor, *, y: Tensor, **others: Any) -> Tensor:
        """The model's output for each half of the guidance by a call of its own."""
        parts = zip(z.chunk(2), t.chunk(2), y.chunk(2), strict=True)
        return torch.cat([self.model(*part[:2], y=part[2], **others) for part in parts])

    @torch.no_grad()
    def _step_s(
        self, model: Callable[..., Tensor], size: tuple[int, ...], pixels: tuple[int, int]
    ) -> float:
        """The fastest step but the first."""
        moments: list[float] = []

        def note(*_: int) -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            moments.append(time.perf_counter())

        null, (height, width) = self.model.null_caption, pixels
        self.flow.sample(
            model,
            torch.randn((1, 4, *size), device=self.device, dtype=torch.bfloat16),
            {
                "y": torch.randn_like(null)[None, None],
                "mask": torch.ones(1, len(null), dtype=torch.long),
                "fps": torch.tensor([24.0], device=self.device, dtype=torch.bfloat16),
                "height": torch.tensor([float(height)]),
                "width": torch.tensor([float(width)]),
            },
            null,
            height=height,
            width=width,
            latent_frames=size[0],
            steps=STEPS,
            progress=note,
        )
        return min(end - start for start, end in pairwise(moments))


@contextmanager
def plain_blocks(model: Any) -> Iterator[None]:
    """The model's blocks by the reference's arithmetic."""
    for block in model.blocks:
        block.forward = PlainBlock(block)
    try:
        yield
    finally:
        for block in model.blocks:
            del block.forward
