"""The frozen T5 that turns captions into features for cross attention."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.caption_cleaning import clean_twice
from trainer.model.kernels.available import KERNELS
from trainer.model.pretrained import WeightsError, find_snapshot, refuse

if KERNELS:
    from trainer.model.kernels.t5 import PackedT5, takes

_TINY_WIDTH = 32
_TIED = "encoder.embed_tokens.weight"  # is shared.weight, under a second name


class CaptionEncoder:
    """A T5 encoder with its tokeniser; a caption has at most `max_length` tokens."""

    def __init__(
        self, encoder: nn.Module, tokeniser: Any, *, max_length: int, clean: bool = False
    ) -> None:
        self.max_length = max_length
        self._encoder = encoder.eval().requires_grad_(False)
        self._tokeniser = tokeniser
        self._clean = clean

    def state_dict(self) -> dict[str, Tensor]:
        """The encoder's weights by name."""
        return self._encoder.state_dict()

    @property
    def width(self) -> int:
        """Channels of a token's features."""
        return int(self._encoder.config.d_model)

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features and mask as `pad_captions` gives them."""
        return pad_captions(self.encode_each(captions), self.max_length)

    @torch.no_grad()
    def encode_each(self, captions: Sequence[str]) -> list[Tensor]:
        """Features [tokens, C] of each caption. A longer one is cut; an empty one is its end token.

        Not one bit depends on a caption's neighbours. So without kernels each is encoded by itself:
        together they would be padded to the longest, whose length changes the others' last bits.
        """
        tokens = [self._tokens(caption) for caption in captions]
        if self._packed is not None:
            return self._packed(tokens)
        device = self._encoder.device
        return [
            self._encoder(input_ids=ids[None].to(device)).last_hidden_state[0] for ids in tokens
        ]

    @cached_property
    def _packed(self) -> "PackedT5 | None":
        """The layers over captions one behind the other, on a GPU, once the weights are there."""
        on_gpu = KERNELS and self._encoder.device.type == "cuda"
        return PackedT5(self._encoder, self.max_length) if on_gpu and takes(self._encoder) else None

    def _tokens(self, caption: str) -> Tensor:
        """Numbers [tokens] of a caption's tokens, on the host."""
        text = clean_twice(caption) if self._clean else caption
        tokens = self._tokeniser(
            text, max_length=self.max_length, truncation=True, return_tensors="pt"
        )
        return tokens.input_ids[0]


def pad_captions(features: Sequence[Tensor], max_length: int) -> tuple[Tensor, Tensor]:
    """Captions' features [tokens, C] as [B, 1, L, C], with 0 behind the tokens that count.

    The mask [B, L] of these is on the host.
    """
    padded = [F.pad(caption, (0, 0, 0, max_length - len(caption))) for caption in features]
    lengths = torch.tensor([[len(caption)] for caption in features])
    return torch.stack(padded)[:, None], (torch.arange(max_length) < lengths).long()


def open_tokeniser(weights: str | None) -> tuple[Any, int]:
    """A tokeniser, and the channels of a token's features, without loading the encoder.

    Without weights they are those of `tiny_t5`.
    """
    from transformers import AutoConfig, AutoTokenizer, ByT5Tokenizer

    if weights is None:
        return ByT5Tokenizer(), _TINY_WIDTH
    folder = find_snapshot(weights)
    try:
        tokeniser = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} holds no T5 with its tokeniser: {error}") from None
    return tokeniser, int(config.d_model)


def load_t5(
    weights: str | Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    max_length: int,
    clean: bool = False,
    read: bool = True,
) -> CaptionEncoder:
    """T5 v1.1 from a folder, or from the Hugging Face cache by its `owner/name`; no download.

    Without `read` its weights are left alone: those that it has are whatever the memory held.
    """
    folder = find_snapshot(weights)
    from transformers import AutoTokenizer, T5EncoderModel

    try:
        tokeniser = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if not read:
            encoder = _empty_t5(folder, dtype, device)
            return CaptionEncoder(encoder, tokeniser, max_length=max_length, clean=clean)
        encoder, report = T5EncoderModel.from_pretrained(
            folder,
            local_files_only=True,
            dtype=dtype,
            ignore_mismatched_sizes=True,  # refused below, with the missing ones
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} holds no T5 encoder with its tokeniser: {error}") from None
    refuse(
        folder,
        missing=sorted({*report["missing_keys"]} - {_TIED}),
        mis_shaped={name: shapes for name, *shapes in report["mismatched_keys"]},
    )
    return CaptionEncoder(encoder.to(device, dtype), tokeniser, max_length=max_length, clean=clean)


def _empty_t5(folder: Path, dtype: torch.dtype, device: torch.device | str) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):  # five billion random numbers would take minutes
        encoder = T5EncoderModel(T5Config.from_pretrained(folder, local_files_only=True))
    encoder = encoder.to(dtype).to_empty(device=device)
    encoder.tie_weights()  # else the vocabulary is there twice
    return encoder


def tiny_t5(
    seed: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    max_length: int = 32,
    clean: bool = False,
) -> CaptionEncoder:
    """A T5 of two narrow layers with the random weights of `seed`, which reads bytes."""
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    tokeniser = ByT5Tokenizer()
    config = T5Config(
        vocab_size=len(tokeniser),
        d_model=_TINY_WIDTH,
        d_kv=8,
        d_ff=2 * _TINY_WIDTH,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = T5EncoderModel(config)
    return CaptionEncoder(encoder.to(device, dtype), tokeniser, max_length=max_length, clean=clean)
