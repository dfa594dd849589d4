"""`data sheet`: clips of each bucket as the model sees them, and clips that no bucket takes."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soractl.cluster.node_python import python_on
from soractl.cluster.settings import Cluster
from soractl.data import table as data_table
from soractl.data.buckets import columns_of
from soractl.errors import SoractlError
from soractl.remote.connections import Connections
from soractl.remote.nodes import this_machine
from soractl.remote.requests import Request
from soractl.terminal import text
from trainer.config import load_stage

if TYPE_CHECKING:
    from trainer.data.buckets import Assignment

DEADLINE_S = (30.0, 10.0)  # to begin, and for each clip
EPOCH = 0


@dataclass(frozen=True)
class Clip:
    """One clip of the sheet; pictures are JPEG bytes, none where it could not be read."""

    row: int
    path: str
    caption: str
    source: tuple[int, int]  # height and width
    num_frames: int
    start: int = 0  # of the window that the first epoch trains on
    frames: int = 0  # 0: no bucket takes it
    size: tuple[int, int] | None = None  # of the crop
    crops: tuple[bytes, ...] = ()  # first, middle and last frame
    whole: bytes = b""
    kept: tuple[float, float, float, float] | None = None  # top, left, bottom, right; of 1
    fault: str | None = None

    @property
    def cut_off(self) -> float:
        """The share of a frame that the model does not see."""
        if self.kept is None:
            return 0.0
        top, left, bottom, right = self.kept
        return 1 - (bottom - top) * (right - left)


@dataclass(frozen=True)
class Group:
    """The clips of a bucket, or those that none takes for one reason."""

    title: str
    count: int  # in the table
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class Sheet:
    """A stage's first epoch over a table."""

    stage: str
    table: Path
    groups: tuple[Group, ...]


def make(stage: str, path: Path, most: int, overrides: Sequence[str]) -> Sheet:
    """The sheet of a table with pictures; SoractlError if the trainer's packages do not answer."""
    planned = plan(stage, path, most, overrides)
    clips = [clip for group in planned.groups for clip in group.clips]
    with tempfile.TemporaryDirectory(prefix="soractl-sheet-") as folder:
        seen = dict(zip([clip.row for clip in clips], _pictures(clips, Path(folder)), strict=True))
    groups = tuple(
        replace(group, clips=tuple(seen[clip.row] for clip in group.clips))
        for group in planned.groups
    )
    return replace(planned, groups=groups)


def plan(stage: str, path: Path, most: int, overrides: Sequence[str]) -> Sheet:
    """Up to `most` clips of each bucket and of each reason, spread over the table. Pure."""
    from trainer.data.batch_sampler import without_bucket
    from trainer.data.buckets import assign_epoch

    settings = load_stage(stage, tuple(overrides)).config
    table, columns = data_table.read(path), columns_of(path)
    assignment = assign_epoch(columns, settings, EPOCH)
    clip_of = _clips(table, assignment, settings.seed)
    groups = []
    for number, bucket in enumerate(assignment.buckets):
        rows = (assignment.index == number).nonzero()[0].tolist()
        if rows:
            length = text.count(bucket.frames, "frame")
            title = f"{bucket.name}: {bucket.height} x {bucket.width}, {length}"
            groups.append(Group(title, len(rows), tuple(map(clip_of, _spread(rows, most)))))
    for reason, mask in without_bucket(columns, assignment).items():
        if rows := mask.nonzero()[0].tolist():
            title = f"no bucket: {reason}"
            groups.append(Group(title, len(rows), tuple(map(clip_of, _spread(rows, most)))))
    return Sheet(stage, path, tuple(groups))


def _clips(table: Any, assignment: "Assignment", seed: int) -> Callable[[int], Clip]:
    from trainer.data.buckets import window_start

    texts = table["text"].fillna("") if "text" in table else [""] * len(table)

    def clip_of(row: int) -> Clip:
        values = table.iloc[row]
        number = int(assignment.index[row])
        clip = Clip(
            row=row,
            path=str(values["path"]),
            caption=str(texts[row]),
            source=(int(values["height"]), int(values["width"])),
            num_frames=int(values["num_frames"]),
        )
        if number < 0:
            return clip
        bucket = assignment.buckets[number]
        start = window_start(seed, EPOCH, row, clip.num_frames, bucket.frames)
        return replace(clip, start=start, frames=bucket.frames, size=(bucket.height, bucket.width))

    return clip_of


def _spread(rows: Sequence[int], most: int) -> list[int]:
    """Rows at equal distances."""
    step = max(1, len(rows) / most)
    return [rows[int(place * step)] for place in range(min(most, len(rows)))]


def _pictures(clips: Sequence[Clip], folder: Path) -> list[Clip]:
    """The clips with their pictures, by the trainer's own decoder in a process of its own."""
    tasks = [
        {
            "path": str(Path(clip.path).absolute()),
            "start": clip.start,
            "frames": clip.frames,
            "height": clip.size and clip.size[0],
            "width": clip.size and clip.size[1],
            "source": clip.source,
            "out": str(folder / str(clip.row)),
        }
        for clip in clips
    ]
    argv = python_on(this_machine(), Cluster(), "-m", "trainer.data.crops")
    request = Request(argv, "".join(f"{json.dumps(task)}\n" for task in tasks))
    begin_s, clip_s = DEADLINE_S
    with Connections(Cluster().ssh) as remote:
        answer = remote(this_machine(), request, begin_s + clip_s * len(tasks))
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    if not answer.ok and not lines:
        raise SoractlError(f"no pictures: {answer.reason}")
    missing = {"fault": answer.reason or "its decoder gave no answer"}
    lines += [missing] * (len(clips) - len(lines))
    return [_with_pictures(clip, line) for clip, line in zip(clips, lines, strict=True)]


def _with_pictures(clip: Clip, answer: Mapping[str, Any]) -> Clip:
    if "fault" in answer:
        return replace(clip, fault=str(answer["fault"]))
    top, left, bottom, right = answer.get("kept") or (0.0, 0.0, 1.0, 1.0)
    return replace(
        clip,
        crops=tuple(Path(file).read_bytes() for file in answer["crops"]),
        whole=Path(answer["whole"]).read_bytes(),
        kept=(top, left, bottom, right) if clip.size else None,
    )
