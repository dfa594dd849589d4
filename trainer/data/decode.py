"""Frames out of video files and pictures: one container at a time, only the wanted range."""

import contextlib
import math
from collections.abc import Iterator
from fractions import Fraction

import av
import torch
from av.video.frame import VideoFrame
from torch import Tensor

from trainer.data import picture, transforms, video_file
from trainer.data.formats import Unfit, is_image
from trainer.data.video_file import Film

IMAGE_FPS = 120.0  # the model's frame rate for a picture
_DEFAULT_FPS = 24.0


class DecodeError(Exception):
    """A file does not hold the frames that it should; says `path: reason`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


class _TimesMislead(Exception):
    """A frame's time does not tell its number."""


def read_frames(path: str, start: int, count: int, height: int, width: int) -> tuple[Tensor, float]:
    """Frames from `start` on, float32 [3, T, H, W] in [-1, 1], and frames per second.

    They are the frames that decoding from the first one gives. Any fault is a DecodeError.
    """
    with _decoding(path):
        if is_image(path):
            return _read_image(path, count, (height, width))
        return _read_video(path, start, count, (height, width))


def read_clip(path: str, height: int, width: int) -> Tensor:
    """A picture or all of a video, float32 [3, T, H, W] in [-1, 1]; any fault is a DecodeError."""
    target = (height, width)
    with _decoding(path):
        if is_image(path):
            return _read_image(path, 1, target)[0]
        with video_file.opened(path) as video:
            frames = [_transformed(video, frame, target) for frame in video.frames()]
        if not frames:
            raise Unfit("no frames")
        return torch.stack(frames, dim=1)


@contextlib.contextmanager
def _decoding(path: str) -> Iterator[None]:
    """Whatever a decoder raises is a DecodeError: no file may end the run."""
    try:
        yield
    except Unfit as fault:
        raise DecodeError(path, str(fault)) from None
    except (OSError, av.error.FFmpegError) as error:
        raise DecodeError(path, error.strerror or str(error)) from None
    except Exception as error:  # noqa: BLE001  (decoders raise all kinds)
        raise DecodeError(path, f"{type(error).__name__}: {error}") from None


def _read_image(path: str, count: int, target: tuple[int, int]) -> tuple[Tensor, float]:
    if count != 1:
        raise Unfit(f"an image, where {count} frames are wanted")
    with picture.opened(path) as image:
        return transforms.image(picture.shown(image), target)[:, None], IMAGE_FPS


def _read_video(path: str, start: int, count: int, target: tuple[int, int]) -> tuple[Tensor, float]:
    if start > 0:
        with video_file.opened(path) as video, contextlib.suppress(_TimesMislead):
            return _collect(video, _by_time(video, start), count, target), _fps(video.rate)
    with video_file.opened(path) as video:
        frames = _by_number(video.frames(), start, count)
        return _collect(video, frames, count, target), _fps(video.rate)


def _fps(rate: Fraction | None) -> float:
    """Whole frames per second, as published weights were trained; a film of less has its own."""
    if not rate:
        return _DEFAULT_FPS
    return float(math.floor(rate) or rate)


def _collect(
    video: Film, frames: Iterator[VideoFrame], count: int, target: tuple[int, int]
) -> Tensor:
    clip = torch.empty(3, count, *target)
    for place, frame in zip(range(count), frames, strict=False):
        clip[:, place] = _transformed(video, frame, target)
    return clip


def _transformed(video: Film, frame: VideoFrame, target: tuple[int, int]) -> Tensor:
    return transforms.video_frame(video.pixels(frame), target, video.shown_size(frame))


def _by_number(frames: Iterator[VideoFrame], start: int, count: int) -> Iterator[VideoFrame]:
    """Frames from number `start` on; Unfit after the last one."""
    found = 0
    for frame in frames:
        if found >= start:
            yield frame
        found += 1
    raise Unfit(f"{found} frames, where {start + count} are wanted")


def _by_time(video: Film, start: int) -> Iterator[VideoFrame]:
    """Frames from number `start` on, decoded from the key frame before it.

    _TimesMislead when a frame's number is unsure, and after the last frame.
    """
    ticks = _ticks_of_a_frame(video)
    first = video.stream.start_time or 0
    # Half a frame less than the wanted time, which rounding may have put before the frame.
    video.container.seek(int(first + (start - 0.5) * ticks), stream=video.stream)
    wanted = start
    for frame in video.frames():
        if frame.pts is None:
            raise _TimesMislead
        number = (frame.pts - first) / ticks
        if number > wanted - 0.5:
            if number > wanted + 0.25:
                raise _TimesMislead  # a gap, or the seek went too far
            yield frame
            wanted += 1
    raise _TimesMislead


def _ticks_of_a_frame(video: Film) -> float:
    """Length of a frame in the stream's time base.

    _TimesMislead unless all are equally long and each that the file holds is shown.
    """
    stream = video.stream
    rate, base = stream.average_rate, stream.time_base
    if not rate or not base or stream.guessed_rate != rate or stream.base_rate != rate:
        raise _TimesMislead
    ticks = float(1 / (rate * base))
    if not stream.duration or abs(stream.duration / ticks - stream.frames) > 0.5:
        raise _TimesMislead  # a gap before the wanted frames would shift their numbers
    if video.indexed_frames() is None:
        raise _TimesMislead
    return ticks
