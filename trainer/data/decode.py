"""Frames out of video files and pictures: one container at a time, only the wanted range."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import av
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image
from torch import Tensor

from trainer.data import transforms
from trainer.data.formats import IMAGES, VIDEOS

IMAGE_FPS = 120.0  # what the model is told for a picture
_DEFAULT_FPS = 24.0


class DecodeError(Exception):
    """A file does not hold the frames that it should; says `path: reason`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


class _Unfit(Exception):
    """Why a file is of no use."""


class _TimesMislead(Exception):
    """A frame's time does not tell its number."""


def read_frames(path: str, start: int, count: int, height: int, width: int) -> tuple[Tensor, float]:
    """Frames from `start` on, float32 [3, T, H, W] in [-1, 1], and frames per second.

    They are the frames that decoding from the first one gives. Any fault is a DecodeError.
    """
    suffix = Path(path).suffix.lower()
    try:
        if suffix in IMAGES:
            return _read_image(path, count, (height, width))
        if suffix in VIDEOS:
            return _read_video(path, start, count, (height, width))
    except _Unfit as fault:
        raise DecodeError(path, str(fault)) from None
    except (OSError, av.error.FFmpegError) as error:
        raise DecodeError(path, error.strerror or str(error)) from None
    except Exception as error:  # noqa: BLE001  (no file may end the run, whatever a decoder raises)
        raise DecodeError(path, f"{type(error).__name__}: {error}") from None
    raise DecodeError(path, f"neither a video ({', '.join(VIDEOS)}) nor an image")


def _read_image(path: str, count: int, target: tuple[int, int]) -> tuple[Tensor, float]:
    if count != 1:
        raise _Unfit(f"an image, where {count} frames are wanted")
    with Image.open(path) as picture:
        return transforms.image(picture.convert("RGB"), target)[:, None], IMAGE_FPS


def _read_video(path: str, start: int, count: int, target: tuple[int, int]) -> tuple[Tensor, float]:
    with av.open(path) as container:
        stream = _video_stream(container)
        rate = stream.average_rate
        fps = float(math.floor(rate)) if rate else _DEFAULT_FPS
        if start > 0:
            with contextlib.suppress(_TimesMislead):
                return _collect(_by_time(container, stream, start), count, target), fps
    with av.open(path) as container:
        frames = container.decode(_video_stream(container))
        return _collect(_by_number(frames, start, count), count, target), fps


def _video_stream(container: InputContainer) -> VideoStream:
    if not container.streams.video:
        raise _Unfit("no video stream")
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1  # processes share the cores, and threads read ahead
    return stream


def _collect(frames: Iterator[VideoFrame], count: int, target: tuple[int, int]) -> Tensor:
    clip = torch.empty(3, count, *target)
    for place, frame in zip(range(count), frames, strict=False):
        clip[:, place] = transforms.video_frame(frame.to_ndarray(format="rgb24"), target)
    return clip


def _by_number(frames: Iterator[VideoFrame], start: int, count: int) -> Iterator[VideoFrame]:
    """Frames from number `start` on; _Unfit after the last one."""
    found = 0
    for frame in frames:
        if found >= start:
            yield frame
        found += 1
    raise _Unfit(f"{found} frames, where {start + count} are wanted")


def _by_time(container: InputContainer, stream: VideoStream, start: int) -> Iterator[VideoFrame]:
    """Frames from number `start` on, decoded from the key frame before it.

    _TimesMislead when a frame's number is unsure, and after the last frame.
    """
    if "mov" not in container.format.name.split(","):
        raise _TimesMislead  # AVI has no times of its own, Matroska no number of frames
    ticks = _ticks_of_a_frame(stream)
    first = stream.start_time or 0
    # Half a frame less than the wanted time, which rounding may have put before the frame.
    container.seek(int(first + (start - 0.5) * ticks), stream=stream)
    wanted = start
    for frame in container.decode(stream):
        if frame.pts is None:
            raise _TimesMislead
        number = (frame.pts - first) / ticks
        if number > wanted - 0.5:
            if number > wanted + 0.25:
                raise _TimesMislead  # a gap, or the seek went too far
            yield frame
            wanted += 1
    raise _TimesMislead


def _ticks_of_a_frame(stream: VideoStream) -> float:
    """Length of a frame in the stream's time base; _TimesMislead unless all are equally long."""
    rate, base = stream.average_rate, stream.time_base
    if not rate or not base or stream.guessed_rate != rate or stream.base_rate != rate:
        raise _TimesMislead
    ticks = float(1 / (rate * base))
    if not stream.frames or not stream.duration:
        raise _TimesMislead
    if abs(stream.duration / ticks - stream.frames) > 0.5:
        raise _TimesMislead  # a gap before the wanted frames would shift their numbers
    return ticks
