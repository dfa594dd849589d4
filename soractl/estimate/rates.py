"""Measured rates of GPUs in training and encoding, and the sizes of the networks.

Two rates explain a step: one of everything but attention in frames, and one of that attention. They
are fitted to five buckets in parts of up to three sizes, with what each recomputes (least squares
of relative errors), and meet each of them within 4 %; those of encoders are from rehearsals
(docs/performance.md).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuRates:
    """Work of one GPU in a second, in bf16."""

    name: str
    dense_flops: float
    frame_attention_flops: float
    vae_pixels: float  # of clips, moved to the GPU and encoded
    picture_pixels: float  # likewise
    caption_tokens: float  # through T5 v1.1 XXL
    measured: str


GPUS = {
    "h100": GpuRates(
        "h100", 410e12, 319e12, 67e6, 43e6, 59e3, "two H100 80 GB; VAE and T5 as of an H200"
    ),
    "h200": GpuRates("h200", 427e12, 357e12, 67e6, 43e6, 59e3, "one and two H200, 2026-11-30"),
}


@dataclass(frozen=True)
class Network:
    """A diffusion model of `trainer.model.stdit3`."""

    width: int
    depth: int  # spatial blocks, and as many temporal ones

    @property
    def parameters(self) -> int:
        """About how many: 16 width^2 in each block, and the layer that captions come through."""
        return 32 * self.depth * self.width**2 + 4096 * self.width


NETWORKS = {
    "STDiT3-XL/2": Network(1152, 28),
    "STDiT3-3B/2": Network(1872, 28),
    "STDiT3-smoke": Network(64, 2),
}
CAPTION_TOKENS = 130  # of a caption of 100 words
CAPTION_BYTES = CAPTION_TOKENS * 4096 * 2
T5_BYTES = 9.5e9
VAE_BYTES = 3.3e9  # with what it makes on its way
