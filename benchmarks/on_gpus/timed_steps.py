"""Seconds of steps on this rank and all others: of every bucket, of every way, of two orders."""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.data import like_openvid
from benchmarks.on_gpus.shapes import Shape, Size
from benchmarks.on_gpus.timed_attention import time_attention
from benchmarks.on_gpus.timed_encoders import Encoders
from benchmarks.on_gpus.trained import Trained
from trainer.config import load_stage
from trainer.data.batch_sampler import plan_epoch
from trainer.data.buckets import assign_epoch
from trainer.distributed.parallel import Ranks

PEAK_FLOPS = 989e12  # dense bf16 of an H100 or H200
WARM_UP = 2
ON_ONE_GPU = 22_000  # tokens at once, where the whole optimizer takes memory too


class Steps:
    """Times steps on this rank and all others; the first one prints."""

    def __init__(self, size: Size, ranks: Ranks, rounds: int) -> None:
        self.size, self.ranks, self.rounds = size, ranks, rounds
        self.config = load_stage(size.stage).config

    def run(self, all_shapes: bool) -> None:
        """Every way on the shapes that show what it is for."""
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, toy networks"
        self.say(f"{name}; a matrix product reaches {self.matrix_rate() / 1e12:.0f} TFLOP/s")
        columns = ("S/STEP", "TOKENS/S", "TFLOP/S", "MFU", "UPDATE", "PEAK GB")
        self.say(f"{'':34}{'':28}" + "".join(f"{name:>10}" for name in columns))
        self.way("ours, parts for one GPU", [self.size.middle], tokens_at_once=ON_ONE_GPU)
        if not all_shapes:
            return
        model_s = self.way("ours", self.size.shapes)
        self.way("ours, all recomputed", [self.size.middle], tokens_at_once=0)
        self.way("plain arithmetic", [self.size.middle], plain=True, tokens_at_once=0)
        Encoders(self).run(model_s)
        if torch.cuda.is_available() and self.ranks.is_first:
            time_attention((*self.size.shapes, Shape("360p", 408, 1)), self.say)
        if self.ranks.world_size > 1:
            self.orders()
        # a compiled block keeps more
        self.way("ours, compiled", [self.size.middle], compiled=True, tokens_at_once=16_000)

    def way(
        self,
        name: str,
        shapes: Sequence[Shape],
        *,
        plain: bool = False,
        compiled: bool = False,
        tokens_at_once: int | None = None,
    ) -> dict[Shape, float]:
        """Seconds of a step by shape, of those that fit into memory."""
        found = {}
        with self.trained(plain, compiled, tokens_at_once) as trained:
            for shape in shapes:
                with self.unless_memory_is_short(f"{name:34}{shape!s:28}"):
                    found[shape] = self.measure(name, trained, shape)
        return found

    def measure(self, name: str, trained: Trained, shape: Shape) -> float:
        latents, noise, conditions = trained.batch(shape)
        self.reset_peak()

        def steps(count: int) -> None:
            for _ in range(count):  # none waits for the one before, as in training
                trained.backward(latents, noise, conditions)
                trained.update()

        steps(WARM_UP)
        seconds = self.clocked(partial(steps, self.rounds)) / self.rounds
        updates = []
        for _ in range(self.rounds):
            trained.backward(latents, noise, conditions)
            updates.append(self.clocked(trained.update))
        rate = trained.flops(shape, conditions) / seconds
        cells = (
            f"{seconds:.3f}",
            f"{self.ranks.world_size * shape.tokens / seconds:.0f}",
            f"{rate / 1e12:.1f}",
            f"{rate / PEAK_FLOPS:.1%}",
            f"{statistics.median(updates):.3f}",
            f"{self.peak_gb():.1f}",
        )
        self.say(f"{name:34}{shape!s:28}" + "".join(f"{cell:>10}" for cell in cells))
        return seconds

    def orders(self) -> None:
        """The same epoch of clips like OpenVid's, in the reference's order and in the balanced."""
        clips, config = like_openvid(200_000), self.config
        assignment = assign_epoch(clips, config, 0)
        with self.trained() as trained:
            for window in (0, config.balance.window):
                plan = plan_epoch(assignment, world_size=self.ranks.world_size, window=window)
                mine = [one.bucket for one in plan.for_rank(self.ranks.rank)[: self.size.orders]]
                shapes = [
                    Shape(bucket.resolution, bucket.frames, bucket.batch_size) for bucket in mine
                ]
                self.take(trained, shapes)  # what comes for the first time takes longer
                seconds = self.clocked(partial(self.take, trained, shapes))
                measured = (
                    f"{seconds / len(shapes):.3f} s/step, {len(shapes)} steps of {self.size.stage}"
                )
                self.say(f"{f'window {window}':34}{measured}")

    def take(self, trained: Trained, shapes: Iterable[Shape]) -> None:
        """A step of each shape."""
        for shape in shapes:
            trained.backward(*trained.batch(shape))
            trained.update()

    @contextmanager
    def trained(
        self, plain: bool = False, compiled: bool = False, tokens_at_once: int | None = None
    ) -> Iterator[Trained]:
        """A network that is gone from memory afterwards."""
        config = self.config
        if tokens_at_once is None:
            alone = self.ranks.world_size == 1
            tokens_at_once = ON_ONE_GPU if alone else config.model.tokens_at_once
        config = replace(config, model=replace(config.model, tokens_at_once=tokens_at_once))
        config = replace(config, trainer=replace(config.trainer, compile=compiled))
        trained = Trained(config, self.ranks, plain=plain)
        yield trained
        trained.__dict__.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @contextmanager
    def unless_memory_is_short(self, what: str) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            self.say(f"{what}out of memory")
            gc.collect()
            torch.cuda.empty_cache()

    def matrix_rate(self) -> float:
        """FLOP/s of a large product of matrices in bf16."""
        side = 8192 if torch.cuda.is_available() else 512
        a, b = (torch.randn(side, side, device=self.ranks.device).bfloat16() for _ in range(2))
        return 2 * side**3 / min(self.clocked(lambda: a @ b) for _ in range(10))

    def clocked(self, action: Callable[[], Any]) -> float:
        """Seconds until the device has done it."""
        self.finish()
        began = time.perf_counter()
        action()
        self.finish()
        return time.perf_counter() - began

    def finish(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def reset_peak(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def peak_gb(self) -> float:
        return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0

    def say(self, line: str) -> None:
        if self.ranks.is_first:
            print(line, flush=True)
