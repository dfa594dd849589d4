"""T5's encoder on a GPU, over captions one behind the other in rows of one fixed number.

Each caption gets the work of its own length, and all of them share the reading of the weights.
Products always have the same number of rows, and nothing else looks beyond a caption, so not one
bit of its features depends on what it shares the rows with, or where it stands.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.model.kernels import packed_text

_ROWS = 1024


class PackedT5:
    """The layers of a `T5EncoderModel`, for captions of at most `max_length` tokens."""

    def __init__(self, encoder: nn.Module, max_length: int) -> None:
        self._encoder: Any = encoder
        self._rows = max(_ROWS, -(-max_length // 64) * 64)
        layer = self._encoder.encoder.block[0].layer[0].SelfAttention
        away = torch.arange(1 - max_length, max_length, device=encoder.device)
        buckets = layer._relative_position_bucket(
            away,
            bidirectional=True,
            num_buckets=layer.relative_attention_num_buckets,
            max_distance=layer.relative_attention_max_distance,
        )
        self._bias = layer.relative_attention_bias(buckets).float().T.contiguous()

    def __call__(self, captions: Sequence[Tensor]) -> list[Tensor]:
        """Features [tokens, C] of captions' token numbers [tokens]."""
        features: list[Tensor] = []
        for group in _in_rows(captions, self._rows):
            features += self._run(group)
        return features

    def _run(self, captions: Sequence[Tensor]) -> list[Tensor]:
        lengths = torch.tensor([len(caption) for caption in captions], dtype=torch.int32)
        ids = torch.zeros(self._rows, dtype=torch.long)
        ids[: int(lengths.sum())] = torch.cat(list(captions))
        starts = lengths.cumsum(0, dtype=torch.int32) - lengths
        out = self._layers(*(_move(part, self._bias.device) for part in (ids, starts, lengths)))
        return list(out[: int(lengths.sum())].split(lengths.tolist()))

    def _layers(self, ids: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
        stack = self._encoder.encoder
        x, y = stack.embed_tokens(ids), None
        for block in stack.block:
            attention, hidden = block.layer[0], block.layer[1]
            normal = _add_and_normalise(x, y, attention.layer_norm)
            y = self._attend(attention.SelfAttention, normal, starts, lengths)
            normal, dense = _add_and_normalise(x, y, hidden.layer_norm), hidden.DenseReluDense
            y = dense.wo(packed_text.gated_gelu(dense.wi_0(normal), dense.wi_1(normal)))
        return _add_and_normalise(x, y, stack.final_layer_norm)

    def _attend(self, layer: Any, x: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (layer.n_heads, -1)) for part in (layer.q, layer.k, layer.v)
        )
        return layer.o(packed_text.attend_within(q, k, v, self._bias, starts, lengths).flatten(1))


def takes(encoder: nn.Module) -> bool:
    """True if the layers are those that kernels are written for: gated GELU, heads of 16 to 128."""
    config: Any = encoder.config
    gated = config.is_gated_act and config.dense_act_fn == "gelu_new"
    return gated and config.d_kv in (16, 32, 64, 128)


def _in_rows(captions: Sequence[Tensor], rows: int) -> Iterator[list[Tensor]]:
    """Captions in their order, as many at once as `rows` hold."""
    group: list[Tensor] = []
    for caption in captions:
        if group and sum(map(len, group)) + len(caption) > rows:
            yield group
            group = []
        group.append(caption)
    if group:
        yield group


def _add_and_normalise(x: Tensor, y: Tensor | None, norm: Any) -> Tensor:
    return packed_text.add_and_normalise(x, y, norm.weight, norm.variance_epsilon)


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
