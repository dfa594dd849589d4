"""The network with its optimizer, stepped as we do it or by the plain arithmetic."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.on_gpus.shapes import Shape
from trainer.chunks import NoisedBatch, backward_in_chunks
from trainer.config import TrainConfig
from trainer.distributed.parallel import Ranks
from trainer.distributed.zero import wrap_with_zero
from trainer.ema import Ema
from trainer.model import build as networks
from trainer.model.flops import forward_flops
from trainer.model.layers import PendingResidual
from trainer.model.stdit3 import Block, TemporalBlock
from trainer.rectified_flow import RectifiedFlow


class Trained:
    """The network with its optimizer, and one way to step it."""

    def __init__(self, config: TrainConfig, ranks: Ranks, *, plain: bool) -> None:
        self.ranks, self.flow, self.plain = ranks, RectifiedFlow(config.flow), plain
        with torch.device(ranks.device):
            self.model = networks.build_model(config)
        if plain:
            for block in self.model.blocks:
                block.forward = PlainBlock(block)
        elif config.trainer.compile:
            self.model.compile_blocks()
        self.wrapped, self.optimizer = wrap_with_zero(self.model, config.optim, config.trainer)
        self.ema = Ema(self.optimizer.masters, config.optim.ema_decay)
        self.dtype = next(self.model.parameters()).dtype

    def batch(self, shape: Shape) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Latents, their noise, and conditions."""
        device, draws = self.ranks.device, torch.Generator().manual_seed(self.ranks.rank)
        latents = torch.randn(shape.latents, device=device, dtype=self.dtype)
        most = self.model.config.model_max_length
        lengths = torch.randint(most // 2, most + 1, (shape.clips, 1), generator=draws)
        channels = self.model.config.caption_channels
        size = torch.tensor(shape.pixels[1:], dtype=self.dtype)
        conditions = {
            "y": torch.randn(shape.clips, 1, most, channels, device=device, dtype=self.dtype),
            "mask": (torch.arange(most) < lengths).long(),
            "fps": torch.full((shape.clips,), 24.0, device=device, dtype=self.dtype),
            "height": size[:1],
            "width": size[1:],
        }
        return latents, torch.randn_like(latents), conditions

    def flops(self, shape: Shape, conditions: dict[str, Any]) -> float:
        """Of the model in one step."""
        clips, _, *size = shape.latents
        tokens = int(conditions["mask"].sum())
        return 3.0 * forward_flops(self.model.config, clips, *size, caption_tokens=tokens)

    def backward(self, latents: Tensor, noise: Tensor, conditions: dict[str, Any]) -> None:
        """Loss and gradients."""
        t = torch.rand(len(latents), device=latents.device) * 1000
        shape = len(latents), latents.shape[2]
        mask = torch.ones(shape, dtype=torch.bool, device=t.device) if self.plain else None
        backward_in_chunks(
            self.flow,
            self.wrapped,
            self.optimizer,
            NoisedBatch(latents, noise, t, conditions, mask),
            weight=1.0,
            clips_at_once=self.model.clips_at_once(latents.shape),
        )

    def update(self) -> None:
        """Optimizer and averages."""
        if self.plain:
            for parameter in self.model.parameters():
                parameter.norm().item()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.plain:
            self.ema.update()
            return
        for average, master in zip(self.ema.shards, self.optimizer.masters, strict=True):
            average.mul_(0.9999).add_(master, alpha=1 - 0.9999)


class PlainBlock:
    """A block's equations as they stand."""

    def __init__(self, block: Block) -> None:
        self.block = block

    def __call__(
        self, residual: PendingResidual, y: Tensor, captions: Any, modulation: Tensor, rotation: Any
    ) -> PendingResidual:
        block, x = self.block, residual.x
        tables = [(block.scale_shift_table + m).unbind(2) for m in (modulation, modulation)]
        chosen = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)[:, :, None, None]

        def modulated(first: int) -> Tensor:
            made, given = (self._modulate(x, table[first], table[first + 1]) for table in tables)
            return torch.where(chosen, made, given)

        def gated(value: Tensor, at: int) -> Tensor:
            made, given = (table[at][:, :, None] * value for table in tables)
            return torch.where(chosen, made, given)

        if isinstance(block, TemporalBlock):
            tokens = modulated(0).transpose(1, 2)
            attended = self._attention(tokens, rotation).transpose(1, 2)
        else:
            attended = block.attn.proj(block.attn(block.attn.qkv(modulated(0))))
        x = x + gated(attended, 2)
        q = block.cross_attn.q_linear(x)
        x = x + block.cross_attn.proj(block.cross_attn(q, y, captions))
        hidden = F.gelu(block.mlp.fc1(modulated(3)), approximate="tanh")
        return PendingResidual(x + gated(block.mlp.fc2(hidden), 5))

    def _modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        normal = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        return normal * (1 + scale[:, :, None]) + shift[:, :, None]

    def _attention(self, x: Tensor, rotation: Any) -> Tensor:
        layer = self.block.attn
        cos, sin = rotation
        q, k, v = layer.qkv(x).unflatten(-1, (3, layer.heads, -1)).unbind(-3)
        q, k, v = (part.transpose(-3, -2) for part in (q, k, v))
        q, k = (self._norm(part, norm) for part, norm in ((q, layer.q_norm), (k, layer.k_norm)))
        q, k = (
            part * cos + part.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) * sin for part in (q, k)
        )
        scores = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).float()
        return layer.proj((scores.softmax(-1).to(v.dtype) @ v).transpose(-3, -2).flatten(-2))

    def _norm(self, x: Tensor, norm: Any) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(
            x.dtype
        ) * norm.weight
