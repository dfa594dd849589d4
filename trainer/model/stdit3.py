"""STDiT3, the diffusion transformer: latents, timestep and captions in, velocity out."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.model.attention import (
    Captions,
    CrossAttention,
    RotaryEmbedding,
    SelfAttention,
    lay_out_captions,
)
from trainer.model.layers import (
    CaptionEmbedder,
    FinalLayer,
    Mlp,
    PatchEmbedder,
    PendingResidual,
    PositionEmbedder,
    ScalarEmbedder,
    add_gated_then_linear,
    add_gated_then_modulated_linear,
    add_then_gated_mlp,
)

_ACTIVATIONS_PER_INPUT = 16  # bytes that a block keeps for its backward pass, per byte of input
_GRAPHS = 64  # for both kinds of blocks: one sample or more, one frame or more, masked or not, ...


_NOT_THE_NETWORKS = {  # keys of published config.json files that say nothing of the network
    *("_name_or_path", "architectures", "auto_map", "model_type", "torch_dtype", "dtype"),
    *("transformers_version", "force_huggingface", "input_size", "skip_y_embedder"),
    *("enable_flash_attn", "enable_layernorm_kernel", "enable_sequence_parallelism"),
}


@dataclass(frozen=True, kw_only=True)
class STDiT3Config:
    """The network's size and which of its parts train; names as in published config.json files."""

    input_sq_size: int = 512  # pixels: edge at which positions count one by one
    in_channels: int = 4
    patch_size: tuple[int, int, int] = (1, 2, 2)
    hidden_size: int = 1152
    depth: int = 28  # spatial blocks, and as many temporal blocks
    num_heads: int = 16
    mlp_ratio: float = 4.0
    class_dropout_prob: float = 0.1  # for whoever draws `drop_captions`
    pred_sigma: bool = True  # twice the channels come out; the second half is not used
    drop_path: float = 0.0  # of the last block; it grows linearly from 0
    caption_channels: int = 4096
    model_max_length: int = 300  # tokens of the null caption
    qk_norm: bool = True
    freeze_y_embedder: bool = False
    only_train_temporal: bool = False

    @classmethod
    def published(cls, values: Mapping[str, Any]) -> Self:
        """The network of a published `config.json`, as read; ValueError names unknown keys.

        Keys of the file's library, and switches of kernels that change no number, are left aside.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(values.keys() - fields - _NOT_THE_NETWORKS):
            raise ValueError(f"no setting of STDiT3: {', '.join(unknown)}")
        given = {key: value for key, value in values.items() if key in fields}
        if "patch_size" in given:
            given["patch_size"] = tuple(given["patch_size"])
        return cls(**given)

    @property
    def out_channels(self) -> int:
        """Channels that come out."""
        return self.in_channels * (2 if self.pred_sigma else 1)


SIZES: dict[str, dict[str, Any]] = {
    "STDiT3-XL/2": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
    "STDiT3-3B/2": {"hidden_size": 1872, "depth": 28, "num_heads": 26},
    "STDiT3-smoke": {
        "hidden_size": 64,
        "depth": 2,
        "num_heads": 4,
        "caption_channels": 32,
        "model_max_length": 32,
    },
}


class Block(nn.Module):
    """Self attention within a frame or over time, cross attention, feed-forward."""

    def __init__(self, config: STDiT3Config, drop_path: float) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.num_heads
        self.drop_path = drop_path
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.attn = SelfAttention(width, heads, qk_norm=config.qk_norm)
        self.cross_attn = CrossAttention(width, heads)
        self.mlp = Mlp(width, int(width * config.mlp_ratio), width)

    def forward(
        self,
        residual: PendingResidual,
        y: Tensor,
        captions: Captions,
        modulation: Tensor,
        rotation: tuple[Tensor, Tensor],
    ) -> PendingResidual:
        """Video tokens [B, T, S, D], caption tokens [B, M, D], modulation [B, T or 1, 6, D]."""
        terms = (self.scale_shift_table + modulation)[:, :, :, None].unbind(2)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = terms
        first = shift_attn, scale_attn, self.attn.qkv
        x, qkv = add_gated_then_modulated_linear(residual, *first)
        attended, gate_attn = self.attend(qkv, rotation), self._drop(gate_attn)
        layers = self.attn.proj, self.cross_attn.q_linear
        x, q = add_gated_then_linear(x, gate_attn, attended, *layers)
        read = self.cross_attn(q, y, captions)
        of_mlp = shift_mlp, scale_mlp, self._drop(gate_mlp)
        return add_then_gated_mlp(x, read, self.cross_attn.proj, of_mlp, self.mlp)

    def attend(self, qkv: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Self attention of what `attn.qkv` gave, [B, T, S, 3 D] to [B, T, S, D]."""
        raise NotImplementedError

    def _drop(self, gate: Tensor) -> Tensor:
        """Close the gates of a share of the samples; the others make up for it."""
        if not (self.training and self.drop_path):
            return gate
        keep = 1 - self.drop_path
        return gate * gate.new_empty(len(gate), 1, 1, 1).bernoulli_(keep).div_(keep)


class SpatialBlock(Block):
    """A block whose tokens see their own frame."""

    def attend(self, qkv: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Over S."""
        return self.attn(qkv)


class TemporalBlock(Block):
    """A block whose tokens see their own place in all frames."""

    def attend(self, qkv: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Over T."""
        return self.attn(qkv, rotation)


class STDiT3(nn.Module):
    """Spatial and temporal blocks in turn, steered by timestep, frame rate, size and caption."""

    def __init__(self, config: STDiT3Config) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.rope = RotaryEmbedding(width // config.num_heads)
        self.pos_embed = PositionEmbedder(width)
        self.x_embedder = PatchEmbedder(config.patch_size, config.in_channels, width)
        self.t_embedder = ScalarEmbedder(width)
        self.fps_embedder = ScalarEmbedder(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.y_embedder = CaptionEmbedder(config.caption_channels, width, config.model_max_length)
        rates = [config.drop_path * i / max(1, config.depth - 1) for i in range(config.depth)]
        self.spatial_blocks = nn.ModuleList(SpatialBlock(config, rate) for rate in rates)
        self.temporal_blocks = nn.ModuleList(TemporalBlock(config, rate) for rate in rates)
        self.final_layer = FinalLayer(width, math.prod(config.patch_size) * config.out_channels)
        self.set_grad_checkpoint("none")
        self._initialise()
        self._freeze()

    @property
    def null_caption(self) -> Tensor:
        """The null caption, which stands for no caption, [model_max_length, caption_channels]."""
        return self.y_embedder.y_embedding

    @property
    def blocks(self) -> Iterator[Block]:
        """All blocks in the order in which they run."""
        for pair in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            yield from pair

    def set_grad_checkpoint(
        self, mode: Literal["none", "every_block"] | int, tokens_at_once: int = 0
    ) -> None:
        """Recompute no block in the backward pass, every one, or every n-th.

        A pass over more than `tokens_at_once` video tokens keeps some blocks all the same, as many
        as have the activations of a whole pass over so many tokens.
        """
        every = {"none": 0, "every_block": 1}.get(mode, mode) if isinstance(mode, str) else mode
        if not isinstance(every, int) or (every < 1 and mode != "none"):
            raise ValueError(f"grad_checkpoint = {mode!r}; expected none, every_block or n >= 1")
        self._recompute_every, self._tokens_at_once = every, tokens_at_once

    def clips_at_once(self, shape: torch.Size) -> int:
        """Number of these latents [B, 4, T, H, W] that go through the model together."""
        if not self._tokens_at_once:
            return shape[0]
        return max(1, round(self._tokens_at_once / math.prod(self._grid(shape))))

    def compile_blocks(self) -> None:
        """Have each kind of block compiled once, for all sizes of latents."""
        torch._dynamo.config.recompile_limit = _GRAPHS
        for block in self.blocks:
            block.compile(dynamic=True)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        x_mask: Tensor | None = None,
        fps: Tensor | None = None,
        height: Tensor | float | None = None,
        width: Tensor | float | None = None,
        drop_captions: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        """The velocity of latents x [B, 4, T, H, W] in its first half, [B, 8, T, H, W] in fp32.

        timestep [B] runs from 0 to 1000; y [B, 1, L, C] are caption features and mask [B or a
        divisor, L] says which of their tokens count; x_mask [B, T] is False for given frames; fps
        [B or a divisor]; of height and width in pixels the first element counts; drop_captions [B]
        is True for captions to hide. mask, height and width belong on the host. Other conditions
        (num_frames, ar, ...) are left aside.
        """
        if fps is None or height is None or width is None:
            raise ValueError("the model needs fps, height and width")
        dtype = self.x_embedder.proj.weight.dtype
        x, timestep, y = x.to(dtype), timestep.to(dtype), y.to(dtype)
        captions, positions = self._lay_out(x, y, mask, height, width)
        t, modulation = self._time(timestep, fps)
        t0 = None
        if x_mask is not None:
            x_mask = x_mask.bool()
            t0, modulation0 = self._time(torch.zeros_like(timestep), fps)
            modulation = torch.where(x_mask[:, :, None, None], modulation, modulation0)
        y = self.y_embedder(y, captions.tokens, drop_captions)
        tokens = self.x_embedder(x) + positions.to(dtype)
        rotation = self.rope(tokens.shape[1])
        recomputed = self._recomputed(tokens[..., 0].numel())
        residual, inputs = PendingResidual(tokens), (y, captions, modulation, rotation)
        for number, block in enumerate(self.blocks):
            if number in recomputed:
                residual = PendingResidual(_checkpointed(block, residual.add(), *inputs))
            else:
                residual = block(residual, *inputs)
        return self._unpatch(self.final_layer(residual.add(), t, t0, x_mask), x.shape)

    # The host's part: it reads values, of which a compiler could make nothing.
    @torch.compiler.disable
    def _lay_out(
        self,
        x: Tensor,
        y: Tensor,
        mask: Tensor | None,
        height: Tensor | float,
        width: Tensor | float,
    ) -> tuple[Captions, Tensor]:
        """Places of the captions' tokens, and positions [S, D] of a frame's tokens."""
        _, rows, columns = self._grid(x.shape)
        pixels = _first(height) * _first(width)
        positions = self.pos_embed(
            rows,
            columns,
            scale=pixels**0.5 / self.config.input_sq_size,
            base_size=round((rows * columns) ** 0.5),
        )
        return lay_out_captions(mask, (len(y), y.shape[2]), x.device), positions

    def _grid(self, shape: torch.Size) -> list[int]:
        """Tokens in time, height and width."""
        return [-(-size // p) for size, p in zip(shape[2:], self.config.patch_size, strict=True)]

    def _recomputed(self, tokens: int) -> range:
        """The numbers of the blocks that a pass over so many video tokens recomputes."""
        if not self._recompute_every or not torch.is_grad_enabled():
            return range(0)
        blocks = 2 * self.config.depth
        room = blocks * self._tokens_at_once / tokens * _ACTIVATIONS_PER_INPUT
        kept = max(0, int((room - blocks) / (_ACTIVATIONS_PER_INPUT - 1)))  # all keep their input
        return range(0, max(0, blocks - kept), self._recompute_every)

    def _time(self, timestep: Tensor, fps: Tensor) -> tuple[Tensor, Tensor]:
        """Timestep and frame rate as [B, D], and as the blocks' modulation [B, 1, 6, D]."""
        fps = fps.repeat(len(timestep) // len(fps))
        t = self.t_embedder(timestep) + self.fps_embedder(fps)
        return t, self.t_block(t).unflatten(-1, (1, 6, -1))

    def _unpatch(self, values: Tensor, shape: torch.Size) -> Tensor:
        """[B, T', S, values of a patch] to [B, C, T, H, W] in fp32, without the padding."""
        _, rows, columns = self._grid(shape)
        patch_t, patch_h, patch_w = self.config.patch_size
        video = rearrange(
            values,
            "b t (h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)",
            h=rows,
            w=columns,
            pt=patch_t,
            ph=patch_h,
            pw=patch_w,
        )
        return video[:, :, : shape[2], : shape[3], : shape[4]].float()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.fps_embedder.mlp[0].weight, std=0.02)
        nn.init.zeros_(self.fps_embedder.mlp[2].weight)
        for block in self.temporal_blocks:  # at the start they change nothing
            for last in (block.attn.proj, block.cross_attn.proj, block.mlp.fc2):
                nn.init.zeros_(last.weight)

    def _freeze(self) -> None:
        if self.config.only_train_temporal:
            self.requires_grad_(False)
            self.temporal_blocks.requires_grad_(True)
        if self.config.freeze_y_embedder:
            self.y_embedder.requires_grad_(False)


def _checkpointed(block: Block, x: Tensor, *inputs: Any) -> Tensor:
    """The backward pass computes the block again instead of keeping more of it than x."""

    def run(x: Tensor, *inputs: Any) -> Tensor:
        return block(PendingResidual(x), *inputs).add()

    rng = block.drop_path > 0
    return checkpoint(run, x, *inputs, use_reentrant=False, preserve_rng_state=rng)


def _first(size: Tensor | float) -> float:
    return float(size.flatten()[0]) if isinstance(size, Tensor) else float(size)
