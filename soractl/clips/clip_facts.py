"""Facts of one clip's file: its numbers as a player shows it, and faults found by decoding."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
from PIL import Image

from trainer.data import picture, video_file
from trainer.data.formats import Unfit, is_image
from trainer.data.video_file import Film

Complaint = tuple[int, str, str]  # level, component, message


def measure(path: str, _: int | None = None) -> dict[str, Any]:
    """The measured columns of a table of clips; also `header_frames` where a header is wrong.

    Unfit if the clip cannot be measured.
    """
    size = _size(path)
    measured = _measure_image(path) if is_image(path) else _measure_video(path)
    height, width = measured["height"], measured["width"]
    return {
        **measured,
        "aspect_ratio": height / width,
        "resolution": height * width,
        "file_size": size,
    }


def decode(path: str, expected_frames: int | None = None) -> dict[str, Any]:
    """Decode every frame; Unfit names the first fault.

    Errors that the decoder conceals count as faults, and so do fewer frames than expected.
    """
    _size(path)
    frames = _decode_image(path) if is_image(path) else _decode_video(path)
    if frames == 0:
        raise Unfit("no frames")
    if expected_frames is not None and frames < expected_frames:
        raise Unfit(f"{frames} frames, where the table says {expected_frames}")
    return {"num_frames": frames}


def _size(path: str) -> int:
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise Unfit(error.strerror or str(error)) from None
    if size == 0:
        raise Unfit("the file is empty")
    return size


def _measure_image(path: str) -> dict[str, Any]:
    with _picture(path) as image:
        height, width = picture.shown_size(image)
    return {"num_frames": 1, "height": height, "width": width, "fps": math.nan}


def _decode_image(path: str) -> int:
    with _picture(path) as image:
        picture.shown(image)
    return 1


@contextmanager
def _picture(path: str) -> Iterator[Image.Image]:
    try:
        with picture.opened(path) as image:
            yield image
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unfit(_first_line(error)) from None


def _measure_video(path: str) -> dict[str, Any]:
    with _opened(path) as (video, _):
        size, frames = video.header_size(), video.indexed_frames()
        rate, header_frames = video.rate, video.header_frames
    frames = _count(path) if frames is None else frames
    height, width = size or _size_of_first_frame(path)
    if not (frames and height and width):
        raise Unfit(f"{frames} frames of {width} x {height} pixels")
    numbers = {"num_frames": frames, "height": height, "width": width}
    wrong = {} if header_frames in (0, frames) else {"header_frames": header_frames}
    return {**numbers, "fps": float(rate) if rate else math.nan, **wrong}


def _size_of_first_frame(path: str) -> tuple[int, int]:
    with _opened(path) as (video, _):
        for frame in video.frames():
            return video.shown_size(frame)
    raise Unfit("no frames")


def _count(path: str) -> int:
    """Number of frames before the first fault; Unfit if there are none."""
    frames = 0
    try:
        with _opened(path) as (video, _):
            for _frame in video.frames():
                frames += 1
    except Unfit:
        if frames == 0:
            raise
    return frames


def _decode_video(path: str) -> int:
    """Number of frames; Unfit for the first complaint about one that is shown."""
    frames = 0
    with _opened(path) as (video, complaints):
        faults = [fault for fault in complaints if fault[1] == video.container.format.name]
        complaints.clear()  # a decoder's own while the file was opened come again
        for packet, is_shown in video.packets():
            frames += len(packet.decode())
            faults += complaints if is_shown else []
            complaints.clear()
    if faults:
        raise Unfit(_worded(faults[0]))
    return frames


@contextmanager
def _opened(path: str) -> Iterator[tuple[Film, list[Complaint]]]:
    """A film and the complaints of its decoder so far; Unfit if the decoder gives up."""
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # "repeated" may mean by the file before
    with av.logging.Capture(local=False) as complaints:
        try:
            with video_file.opened(path) as video:
                yield video, complaints
        except (av.error.FFmpegError, OSError) as error:
            reasons = [_first_line(error), *map(_worded, complaints[:1])]
            raise Unfit(": ".join(reasons)) from None


def _worded(complaint: Complaint) -> str:
    _, component, message = complaint
    return f"{component}: {message.strip()}" if component else message.strip()


def _first_line(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).split("\n")[0]
