"""Alarms: videos of a checkpoint that no one needs to see to know that something is wrong."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

BLANK_CONTRAST = 2.0  # levels of 255: no frame shows anything
FROZEN_MOTION = 0.05  # levels a frame: one pixel in a thousand that changes by 50
ALIKE_COLOURS = 4.0  # levels: root mean square over all blocks
FEWEST_PROMPTS = 3  # two videos may be alike by chance


@dataclass(frozen=True)
class Alarm:
    """A fault that measures show, and the videos that have it."""

    kind: str  # blank, frozen, collapsed
    videos: tuple[str, ...]  # names of files
    of: int  # videos that were looked at

    def __str__(self) -> str:
        if self.kind == "collapsed":
            return f"collapsed: {self.of} videos of different prompts look alike"
        return f"{self.kind}: {len(self.videos)} of {self.of}"

    def as_json(self) -> dict[str, Any]:
        """As `result.json` has it."""
        return {**asdict(self), "text": str(self)}


def find_alarms(videos: Sequence[Mapping[str, Any]]) -> list[Alarm]:
    """Alarms of one checkpoint's videos, each with `name`, `prompt` and `measures`.

    - blank: contrast below 2 levels in every frame;
    - frozen: not blank, and motion below 0.05 levels a frame;
    - collapsed: at least three prompts, none blank, and the mean colours of 4 x 4 blocks of any
      two videos of different prompts are within 4 levels (root mean square).
    """
    measured = [video for video in videos if video.get("measures")]
    blank = [video for video in measured if video["measures"]["contrast"] < BLANK_CONTRAST]
    shown = [video for video in measured if video not in blank]
    frozen = [video for video in shown if _is_frozen(video["measures"]["motion"])]
    alike = shown if not blank and _look_alike(shown) else []
    kinds = {"blank": blank, "frozen": frozen, "collapsed": alike}
    return [
        Alarm(kind, tuple(video["name"] for video in found), len(measured))
        for kind, found in kinds.items()
        if found
    ]


def _is_frozen(motion: float | None) -> bool:
    """A picture of one frame has no motion, and is none the worse for it."""
    return motion is not None and motion < FROZEN_MOTION


def _look_alike(videos: Sequence[Mapping[str, Any]]) -> bool:
    if len({video["prompt"] for video in videos}) < FEWEST_PROMPTS:
        return False
    return all(
        _distance(one["measures"]["colours"], other["measures"]["colours"]) < ALIKE_COLOURS
        for one, other in combinations(videos, 2)
        if one["prompt"] != other["prompt"]
    )


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    return math.dist(one, other) / math.sqrt(len(one))
