"""The buckets that are timed, at real size and at toy size."""

import math
from dataclasses import dataclass

from trainer.data.resolutions import RESOLUTIONS
from trainer.model.latent_size import latent_size


@dataclass(frozen=True)
class Shape:
    """A micro batch of one bucket."""

    resolution: str
    frames: int
    clips: int

    @property
    def pixels(self) -> tuple[int, int, int]:
        """Frames, height and width of a clip."""
        sizes = RESOLUTIONS[self.resolution].sizes
        return self.frames, *sizes.get("0.56", next(iter(sizes.values())))

    @property
    def latents(self) -> tuple[int, ...]:
        """[B, 4, T, H, W]."""
        return self.clips, 4, *(size or 0 for size in latent_size(self.pixels))

    @property
    def tokens(self) -> int:
        """Of latents, in patches of 1 x 2 x 2."""
        clips, _, frames, height, width = self.latents
        return clips * frames * math.ceil(height / 2) * math.ceil(width / 2)

    def __str__(self) -> str:
        return f"{self.resolution} x {self.frames}, {self.clips} clips"


@dataclass(frozen=True)
class Size:
    """What is trained on what."""

    stage: str
    shapes: tuple[Shape, ...]
    middle: Shape  # what ways and numbers of GPUs are compared on
    sets: tuple[str, ...]  # of the launched run
    clips: int  # of the launched run, for each GPU
    orders: int  # steps in which the orders of an epoch are compared
    films: tuple[tuple[str, str], ...]  # length and resolution of those that are sampled


REAL = Size(
    stage="stage1",
    shapes=(
        Shape("144p", 51, 51),
        Shape("240p", 51, 20),
        Shape("360p", 51, 8),
        Shape("720p", 51, 2),
        Shape("480p", 1, 89),
    ),
    middle=Shape("360p", 51, 8),
    sets=(  # a quarter of each batch, so that a few minutes see many steps
        "buckets.batch_size.144p=[118, 12, 6, 3, 1]",
        "buckets.batch_size.240p=[74, 5, 2, 1, 1]",
        "buckets.batch_size.360p=[35, 2, 1, 1, 1]",
    ),
    clips=300,
    orders=8,
    films=(("4s", "360p"), ("4s", "720p")),
)
TOY = Size(
    stage="smoke",
    shapes=(Shape("144p", 17, 2), Shape("144p", 34, 1)),
    middle=Shape("144p", 17, 2),
    sets=(),
    clips=80,
    orders=8,
    films=(("17", "144p"),),
)
