"""Seconds of VAE and T5, which a step takes besides where features are not cached."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.on_gpus.shapes import TOY, Shape
from trainer.model import build as networks
from trainer.model.text_encoder import CaptionEncoder, tiny_t5

if TYPE_CHECKING:
    from benchmarks.on_gpus.timed_steps import Steps

MOST_TOKENS = 300
FEWEST, MOST = 52, 208  # tokens of a caption of 40 to 160 words
T5 = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
ROUNDS = 3  # of which the fastest counts: the first builds kernels, the second captures them


class Encoders:
    """Times a micro batch of each shape on this rank."""

    def __init__(self, steps: "Steps") -> None:
        self.steps, self.device = steps, steps.ranks.device
        config = replace(steps.config.vae, weights=None)
        self.vae_config = config
        self.vae = networks.build_vae(config, 0, device=self.device, dtype=torch.bfloat16)
        self.captions = self.caption_encoder()

    def run(self, model_s: dict[Shape, float]) -> None:
        """A table of seconds and rates, and the share of both in a whole step."""
        columns = (
            "VAE S",
            "MPIXEL/S",
            "TFLOP/S",
            "DECODE S",
            "T5 S",
            "TOKENS/S",
            "TFLOP/S",
            "SHARE",
        )
        self.steps.say(f"\n{'':30}" + "".join(f"{name:>10}" for name in columns))
        for shape in self.steps.size.shapes:
            with self.steps.unless_memory_is_short(f"{shape!s:30}"), torch.no_grad():
                cells = self.measure(shape, model_s.get(shape))
                self.steps.say(f"{shape!s:30}" + "".join(f"{cell:>10}" for cell in cells))

    def measure(self, shape: Shape, model_s: float | None) -> list[str]:
        size = shape.clips, 3, *shape.pixels
        video = torch.rand(size, device=self.device, dtype=torch.bfloat16) * 2 - 1
        encode_s = self.fastest(partial(self.vae.encode_each, video, list(range(shape.clips))))
        latents = self.vae.encode_each(video[:1], [0])
        decode_s = self.fastest(partial(self.vae.decode, latents, shape.frames))
        texts = [str(number) for number in range(shape.clips)]
        lengths = [len(caption) for caption in self.captions.encode_each(texts)]
        captions_s = self.fastest(partial(self.captions.encode, texts))
        cells = [
            f"{encode_s:.3f}",
            f"{video[:, 0].numel() / encode_s / 1e6:.1f}",
            f"{shape.clips * self.vae_flops(shape) / encode_s / 1e12:.0f}",
            f"{shape.clips * decode_s:.3f}",
            f"{captions_s:.3f}",
            f"{sum(lengths) / captions_s:.0f}",
            f"{sum(map(t5_flops, lengths)) / captions_s / 1e12:.0f}",
        ]
        both = encode_s + captions_s
        return [*cells, f"{both / (both + model_s):.1%}"] if model_s else cells

    def fastest(self, action: Callable[[], Any]) -> float:
        return min(self.steps.clocked(action) for _ in range(ROUNDS))

    def vae_flops(self, shape: Shape) -> int:
        """Of one clip's encoding."""
        with torch.device("meta"), FlopCounterMode(display=False) as counted:
            vae = networks.vae.build_vae(self.vae_config, read=False)
            vae.encode(torch.empty(1, 3, *shape.pixels))
        return int(counted.get_total_flops())

    def caption_encoder(self) -> CaptionEncoder:
        """T5 v1.1 XXL with random weights, that reads random tokens."""
        if self.steps.size is TOY:
            return tiny_t5(0, dtype=torch.bfloat16, device=self.device)
        from transformers import T5Config, T5EncoderModel

        config = T5Config(vocab_size=32128, feed_forward_proj="gated-gelu", **T5)
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(self.device):
            encoder = T5EncoderModel(config)
        torch.set_default_dtype(torch.float32)
        return CaptionEncoder(encoder, random_tokens, max_length=MOST_TOKENS)


def random_tokens(text: str, **_: Any) -> SimpleNamespace:
    """As many and such tokens as follow from the text."""
    draws = torch.Generator().manual_seed(int(text))
    count = int(torch.randint(FEWEST, MOST + 1, (1,), generator=draws))
    return SimpleNamespace(input_ids=torch.randint(32128, (1, count), generator=draws))


def t5_flops(tokens: int) -> float:
    """Of a caption of so many tokens in T5 v1.1 XXL."""
    inner = T5["d_kv"] * T5["num_heads"]
    products = 4 * T5["d_model"] * inner + 3 * T5["d_model"] * T5["d_ff"]
    return float(T5["num_layers"] * (2 * tokens * products + 4 * tokens**2 * inner))
