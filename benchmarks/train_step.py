"""A training step of STDiT3 beside the plain arithmetic of the reference, on two cores in fp32.

Hidden 384, depth 6, 6 heads, latents [2, 4, 8, 32, 32], 64 caption tokens; forward, flow loss,
backward and AdamW, the same fused kernel on both sides. The plain way keeps every score matrix,
computes both modulations of every token, and walks over tensors one by one for averages and norms.
Both ways read the same weights, and nothing is timed before their losses and gradients agree.

Peak memory is the highest resident set (VmHWM) of a fresh process that takes two steps: what it
grew by after weights and optimizer were built, and all of it. Averages and norms are those of rank
0 of 1, 8 and 64: the reference shards averages and gradients, but walks over whole weights for
their norm, with a wait for every tensor.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import load_stage
from trainer.ema import Ema
from trainer.model.attention import CrossAttention, SelfAttention
from trainer.model.stdit3 import Block, STDiT3, STDiT3Config, TemporalBlock
from trainer.rectified_flow import RectifiedFlow

REPOSITORY = Path(__file__).resolve().parent.parent

CONFIG = STDiT3Config(hidden_size=384, depth=6, num_heads=6, model_max_length=64)
BATCH, FRAMES = 2, 8
LATENTS = (BATCH, 4, FRAMES, 32, 32)
FLOW = RectifiedFlow(load_stage("smoke", folder=REPOSITORY / "configs").config.flow)
THREADS = 2
WAYS = ("plain", "ours")
RANKS = (1, 8, 64)
DECAY = 0.99


class Way:
    """One way to compute a training step, from the same weights and on the same batch."""

    def __init__(self, name: str, given_frames: bool = False) -> None:
        torch.manual_seed(0)
        self.model = STDiT3(CONFIG)
        for parameter in self.trainable:  # the initial ones make temporal blocks the identity
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        plain = name == "plain"
        self.velocity = partial(plain_velocity, self.model) if plain else self.model
        self.frame_mask = torch.ones(BATCH, FRAMES, dtype=torch.bool) if plain else None
        if given_frames:
            self.frame_mask = torch.arange(FRAMES)[None] >= torch.tensor([[2], [0]])
        self.optimizer = torch.optim.AdamW(self.trainable, lr=1e-5, fused=True)

    @property
    def trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def backward(self) -> Tensor:
        """The loss; gradients are in the model."""
        draws = torch.Generator().manual_seed(7)
        latents, noise = (torch.randn(LATENTS, generator=draws) for _ in range(2))
        captions = torch.randn(BATCH, 1, 64, CONFIG.caption_channels, generator=draws)
        conditions = {"y": captions, "fps": torch.tensor([24.0, 30.0]), "height": 256, "width": 256}
        t = torch.tensor([300.0, 700.0])
        loss = FLOW.training_loss(self.velocity, latents, noise, t, conditions, self.frame_mask)
        loss.mean().backward()
        return loss.mean().detach()

    def step(self) -> None:
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


@dataclass(frozen=True)
class Averages:
    """What rank 0 of several averages and measures after a step."""

    weights: list[Tensor]  # whole
    masters: list[Tensor]  # this rank's slices
    gradients: list[Tensor]
    ema: Ema

    def plain(self) -> list[float]:
        """Norms of gradients and weights, summed up on the host."""
        for average, master in zip(self.ema.shards, self.masters, strict=True):
            average.mul_(DECAY).add_(master, alpha=1 - DECAY)
        gradients = sum(gradient.double().norm().item() ** 2 for gradient in self.gradients)
        weights = sum(weight.norm().item() ** 2 for weight in self.weights)
        return [gradients**0.5, weights**0.5]

    def ours(self) -> list[float]:
        """The norms of this rank's slices; ranks add up their squares."""
        self.ema.update()
        return torch.stack([norm(self.gradients), norm(self.masters)]).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peak-memory", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    if arguments.peak_memory:
        print(*peak_memory(Way(arguments.peak_memory)))
        return
    check()
    print(f"{os.cpu_count()} cores, {platform.release()}; torch {torch.__version__}, ", end="")
    print(f"{THREADS} threads, {arguments.rounds} rounds in turn, medians (min - max)")
    print(f"{'':30}{WAYS[0]:>24}{WAYS[1]:>24}{'ratio':>8}  goal")
    steps = [Way(name).step for name in WAYS]
    show("step, s", measure(steps, arguments.rounds), "at least 1.3")
    memory = [measure_memory(name) for name in WAYS]
    show("peak memory, grown by, MB", [[grown] for grown, _ in memory], "at most 0.7")
    show("peak memory, whole process, MB", [[whole] for _, whole in memory], "")
    for ranks in RANKS:
        plain, ours = averages(ranks), averages(ranks)
        times = measure([plain.plain, ours.ours], 5 * arguments.rounds)
        goal = "at least 5"
        show(f"averages + norms, 1 of {ranks}, ms", [[1e3 * s for s in way] for way in times], goal)


def check() -> None:
    """Both ways have the same loss and gradients, with and without given frames."""
    for given in (False, True):
        plain, ours = (Way(name, given_frames=given) for name in WAYS)
        torch.testing.assert_close(ours.backward(), plain.backward(), rtol=1e-5, atol=0)
        for expected, found in zip(plain.trainable, ours.trainable, strict=True):
            error = (found.grad - expected.grad).norm() / expected.grad.norm()
            assert error < 1e-4, error
    plain, ours = averages(1), averages(1)
    torch.testing.assert_close(ours.ours(), plain.plain(), rtol=1e-5, atol=0)
    torch.testing.assert_close(plain.ema.shards, ours.ema.shards)


def measure(actions: list[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds of each, taking turns, so that a slow minute of the machine meets all of them."""
    for action in actions:
        action()
    found: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for action, times in zip(actions, found, strict=True):
            began = time.perf_counter()
            action()
            times.append(time.perf_counter() - began)
    return found


def measure_memory(name: str) -> list[float]:
    """`peak_memory` in a process of its own."""
    command = [sys.executable, __file__, "--peak-memory", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(number) for number in done.stdout.split()]


def peak_memory(way: Way) -> tuple[float, float]:
    """MB by which two steps make this process grow, and its most."""
    before = memory("VmRSS")
    for _ in range(2):
        way.step()
    return memory("VmHWM") - before, memory("VmHWM")


def memory(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))


def show(name: str, ways: list[list[float]], goal: str) -> None:
    plain, ours = map(statistics.median, ways)
    cells = ""
    for way in ways:
        spread = f" ({min(way):.4g} - {max(way):.4g})" if len(way) > 1 else ""
        cells += f"{f'{statistics.median(way):.4g}{spread}':>24}"
    ratio = ours / plain if "memory" in name else plain / ours
    print(f"{name:30}{cells}{ratio:8.2f}  {goal}", flush=True)


def averages(ranks: int) -> Averages:
    """The state of rank 0 of `ranks`, with the tensors of the model and random values."""
    draws = torch.Generator().manual_seed(0)
    shapes = [parameter.shape for parameter in STDiT3(CONFIG).parameters()]
    weights = [torch.randn(shape, generator=draws) for shape in shapes]
    masters = [weight.flatten().chunk(ranks)[0].clone() for weight in weights]
    gradients = [torch.randn(master.shape, generator=draws) for master in masters]
    ema = Ema(masters, DECAY)
    torch._foreach_zero_(ema.shards)
    return Averages(weights, masters, gradients, ema)


def plain_velocity(
    model: STDiT3, x: Tensor, t: Tensor, x_mask: Tensor, **conditions: Any
) -> Tensor:
    """STDiT3's equations as they stand, for latents that whole patches cover."""
    fps, size = conditions["fps"], conditions["height"] * conditions["width"]
    z = model.x_embedder.proj(x)
    frames, rows, columns = z.shape[2:]
    z = z.flatten(3).permute(0, 2, 3, 1)
    scale = size**0.5 / CONFIG.input_sq_size
    z = z + model.pos_embed(rows, columns, scale=scale, base_size=round((rows * columns) ** 0.5))
    embedded = [model.t_embedder(at) + model.fps_embedder(fps) for at in (t, torch.zeros_like(t))]
    modulations = [model.t_block(one).unflatten(-1, (6, -1)) for one in embedded]
    y = model.y_embedder.y_proj(conditions["y"][:, 0])
    angles = (torch.arange(frames)[:, None] * model.rope.freqs).repeat_interleave(2, -1)
    cos, sin = angles.cos(), angles.sin()
    chosen = x_mask[:, :, None, None]
    for block in model.blocks:
        z = plain_block(block, z, y, modulations, chosen, (cos, sin))
    final = model.final_layer
    tables = [(final.scale_shift_table + one[:, None]).unbind(1) for one in embedded]
    z = modulate(z, *tables[0])
    z = final.linear(torch.where(chosen, z, modulate(z, *tables[1])))
    z = z.unflatten(-1, (2, 2, -1)).unflatten(2, (rows, columns))
    return torch.einsum("bthwpqc->bcthpwq", z).flatten(5, 6).flatten(3, 4)


def plain_block(
    block: Block,
    x: Tensor,
    y: Tensor,
    modulations: list[Tensor],
    chosen: Tensor,
    rotation: tuple[Tensor, Tensor],
) -> Tensor:
    """Video tokens [B, T, S, D], caption tokens [B, L, D], `chosen` [B, T, 1, 1] frames to make."""
    tables = [(block.scale_shift_table + one).unbind(1) for one in modulations]

    def modulated(first: int) -> Tensor:
        made, given = (modulate(x, table[first], table[first + 1]) for table in tables)
        return torch.where(chosen, made, given)

    def gated(value: Tensor, at: int) -> Tensor:
        made, given = (table[at][:, None, None] * value for table in tables)
        return torch.where(chosen, made, given)

    if isinstance(block, TemporalBlock):
        tokens = modulated(0).transpose(1, 2)
        attended = plain_self_attention(block.attn, tokens, rotation).transpose(1, 2)
    else:
        attended = plain_self_attention(block.attn, modulated(0), None)
    x = x + gated(attended, 2)
    x = x + plain_cross_attention(block.cross_attn, x.flatten(1, 2), y).view_as(x)
    return x + gated(block.mlp(modulated(3)), 5)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    normal = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return normal * (1 + scale[:, None, None]) + shift[:, None, None]


def plain_self_attention(
    layer: SelfAttention, x: Tensor, rotation: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Over the tokens of [..., N, D]."""
    q, k, v = layer.qkv(x).unflatten(-1, (3, layer.heads, -1)).unbind(-3)
    q, k, v = (part.transpose(-3, -2) for part in (q, k, v))
    q, k = plain_norm(q, layer.q_norm.weight), plain_norm(k, layer.k_norm.weight)
    if rotation:
        cos, sin = rotation
        q, k = (part * cos + half_turn(part) * sin for part in (q, k))
    return layer.proj(plain_attention(q, k, v))


def plain_cross_attention(layer: CrossAttention, x: Tensor, y: Tensor) -> Tensor:
    q = layer.q_linear(x).unflatten(-1, (layer.heads, -1))
    k, v = layer.kv_linear(y).unflatten(-1, (2, layer.heads, -1)).unbind(-3)
    q, k, v = (part.transpose(-3, -2) for part in (q, k, v))
    return layer.proj(plain_attention(q, k, v))


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[..., heads, N, D] with every score in memory."""
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    return (scores.softmax(-1) @ v).transpose(-3, -2).flatten(-2)


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


def half_turn(x: Tensor) -> Tensor:
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((-b, a), -1).flatten(-2)


def norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(tensors)).square().sum().sqrt()


if __name__ == "__main__":
    main()
