"""Assignment of all clips to buckets (resolution, length, aspect ratio) in an epoch.

The rules are those of Open-Sora 1.2 (`opensora/datasets/bucket.py`), for a whole table at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from trainer.config import TrainConfig
from trainer.data.resolutions import RESOLUTIONS
from trainer.model.latent_size import SPATIAL_FACTOR, latent_frames
from trainer.seeds import derive_seed

_SMALLEST_SHARE = 0.8  # of a resolution's pixels that a clip must have, as the reference

IntArray = np.ndarray[Any, Any]
# (rule's number, which draw of this rule, clip ids) -> uniform [0, 1) for each clip
Draw = Callable[[int, int, IntArray], np.ndarray[Any, Any]]


class Clips(Protocol):
    """The columns that assignment reads, one entry a clip."""

    @property
    def num_frames(self) -> IntArray:
        """Frames."""

    @property
    def height(self) -> IntArray:
        """Pixels."""

    @property
    def width(self) -> IntArray:
        """Pixels."""


@dataclass(frozen=True)
class BucketRule:
    """One resolution and length: the chance that a fitting clip stays, and its batch size."""

    resolution: str
    frames: int
    keep: float
    keep_length: float | None  # chance that this length is considered at all; None = always
    batch_size: int | None


@dataclass(frozen=True)
class Bucket:
    """Clips that are trained in one shape."""

    resolution: str
    frames: int
    ratio: str  # label of height / width
    height: int
    width: int
    batch_size: int

    @property
    def name(self) -> str:
        """`240p/51/0.56`."""
        return f"{self.resolution}/{self.frames}/{self.ratio}"

    @property
    def latent_frames(self) -> int:
        """Of a clip."""
        return latent_frames(self.frames)

    @property
    def patches(self) -> int:
        """Tokens of a latent frame, two by two latent pixels each."""
        rows, columns = self.height // SPATIAL_FACTOR, self.width // SPATIAL_FACTOR
        return -(-rows // 2) * -(-columns // 2)

    @property
    def tokens(self) -> int:
        """Of a micro batch."""
        return self.batch_size * self.latent_frames * self.patches


@dataclass(frozen=True)
class Assignment:
    """Every clip's bucket in one epoch; `index` points into `buckets`, -1 = left out."""

    seed: int
    epoch: int
    buckets: Sequence[Bucket]
    index: IntArray

    rules: Sequence["BucketRule"] = ()  # by which the clips were assigned

    @cached_property
    def counts(self) -> IntArray:
        """Clips in each bucket."""
        return np.bincount(self.index[self.index >= 0], minlength=len(self.buckets))


def bucket_rules(
    frames: Sequence[int],
    batch_size: Mapping[Any, Sequence[int]],
    keep: Mapping[Any, Sequence[float | Sequence[float]]],
) -> tuple[BucketRule, ...]:
    """The rules in the order in which they are tried: most pixels first, longest first."""
    names = sorted(keep, key=lambda name: -RESOLUTIONS[name].pixels)
    rules = []
    for name in names:
        sizes = (*batch_size.get(name, ()), *[None] * len(frames))
        columns = list(zip(frames, keep[name], sizes, strict=False))
        for length, chance, size in sorted(columns, key=lambda column: -column[0]):
            stay, consider = (chance, None) if isinstance(chance, int | float) else chance
            rules.append(BucketRule(name, length, stay, consider, size if stay > 0 else None))
    return tuple(rules)


def assign(
    clips: Clips,
    rules: Sequence[BucketRule],
    seed: int,
    epoch: int,
    draw: Draw | None = None,
) -> Assignment:
    """Each clip's bucket in an epoch; the same on every machine, whatever the number of ranks."""
    draw = draw or hashed_draw(seed, epoch)
    buckets, first_of_rule = _all_buckets(rules)
    index: IntArray = np.full(len(clips.num_frames), -1, dtype=np.int64)
    undecided = np.arange(len(index))
    pixels = clips.height.astype(np.int64) * clips.width
    ratio = clips.height / np.maximum(clips.width, 1)
    for name in dict.fromkeys(rule.resolution for rule in rules):
        candidates = undecided[is_large_enough(pixels[undecided], name)]
        own = [(number, rule) for number, rule in enumerate(rules) if rule.resolution == name]
        rule_of = _rule_of(own, candidates, clips.num_frames, draw)
        taken = rule_of >= 0
        chosen = candidates[taken]
        label = closest_labels(name, ratio[chosen])
        index[chosen] = first_of_rule[rule_of[taken]] + label
        undecided = undecided[index[undecided] < 0]
    return Assignment(seed, epoch, buckets, index, rules)


def assign_epoch(clips: Clips, settings: TrainConfig, epoch: int) -> Assignment:
    """Each clip's bucket in an epoch, as a stage's `buckets` and `seed` say."""
    buckets = settings.buckets
    rules = bucket_rules(buckets.frames, buckets.batch_size, buckets.keep)
    return assign(clips, rules, settings.seed, epoch)


def is_large_enough(pixels: IntArray, resolution: str) -> IntArray:
    """Mask of the clips that, by height x width, may be trained at a resolution."""
    enough: IntArray = pixels >= _SMALLEST_SHARE * RESOLUTIONS[resolution].pixels
    return enough


def is_long_enough(num_frames: IntArray, frames: int) -> IntArray:
    """Mask of the clips that may be trained at a length; one frame is for pictures alone."""
    enough: IntArray = (num_frames == 1) if frames == 1 else (num_frames > frames)
    return enough


def hashed_draw(seed: int, epoch: int) -> Draw:
    """Uniform numbers that depend on (seed, epoch, rule, clip) and on nothing else."""

    def draw(number: int, which: int, ids: IntArray) -> np.ndarray[Any, Any]:
        key = np.uint64(derive_seed(seed, epoch, "bucket", number, which))
        return uniform(key, ids)

    return draw


def uniform(key: np.uint64, ids: IntArray) -> np.ndarray[Any, Any]:
    """A number in [0, 1) for each id: the finaliser of SplitMix64 (Steele et al. 2014)."""
    mixed = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def window_start(seed: int, epoch: int, row: int, num_frames: int, frames: int) -> int:
    """The first frame of a clip that an epoch trains on; of the seed, the epoch and the clip."""
    last = max(0, num_frames - frames)
    return derive_seed(seed, epoch, row, "window") % (last + 1)


def _rule_of(
    own: Sequence[tuple[int, BucketRule]], candidates: IntArray, num_frames: IntArray, draw: Draw
) -> IntArray:
    """The rule of one resolution that takes each candidate, or -1.

    The longest length that a clip exceeds (and that is considered) is its only chance here: a clip
    that it does not keep tries the next resolution, not a shorter length.
    """
    length = num_frames[candidates]
    rule_of: IntArray = np.full(len(candidates), -1, dtype=np.int64)
    open_: IntArray = np.ones(len(candidates), dtype=bool)
    for number, rule in own:
        if rule.keep_length == 0:
            continue  # no bucket; a draw could be 0 as well
        fits = open_ & is_long_enough(length, rule.frames)
        where = np.flatnonzero(fits)
        which = 0
        if rule.keep_length is not None:
            where = where[draw(number, which, candidates[where]) <= rule.keep_length]
            which = 1
        open_[where] = False
        if rule.keep < 1:
            where = where[draw(number, which, candidates[where]) < rule.keep]
        rule_of[where] = number
    return rule_of


def _all_buckets(rules: Sequence[BucketRule]) -> tuple[list[Bucket], IntArray]:
    buckets: list[Bucket] = []
    first = []
    for rule in rules:
        first.append(len(buckets))
        buckets += [
            Bucket(rule.resolution, rule.frames, label, height, width, rule.batch_size or 0)
            for label, (height, width) in RESOLUTIONS[rule.resolution].sizes.items()
        ]
    return buckets, np.array(first)


def closest_labels(resolution: str, ratio: np.ndarray[Any, Any]) -> IntArray:
    """Position in the resolution's table of the label nearest to height / width (first on ties)."""
    labels = np.array([float(label) for label in RESOLUTIONS[resolution].sizes])
    ascending = np.argsort(labels)
    above = np.searchsorted(labels[ascending], ratio).clip(1, len(labels) - 1)
    left, right = ascending[above - 1], ascending[above]
    to_left, to_right = np.abs(ratio - labels[left]), np.abs(ratio - labels[right])
    is_left = (to_left < to_right) | ((to_left == to_right) & (left < right))
    return np.where(is_left, left, right)
