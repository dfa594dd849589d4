"""Frames out of video files and pictures: one container at a time, only the wanted range."""

import math
from collections.abc import Iterator
from pathlib import Path

import av
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from trainer.data import transforms

IMAGE_FPS = 120.0  # what the model is told for a picture
_DEFAULT_FPS = 24.0
_IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_VIDEOS = (".mp4", ".avi", ".mov", ".mkv")


class DecodeError(Exception):
    """A file does not hold the frames that it should."""


def read_clip(path: str, start: int, frames: int, target: tuple[int, int]) -> tuple[Tensor, float]:
    """Frames from `start` on as float32 [3, T, H, W] in [-1, 1], and frames per second."""
    suffix = Path(path).suffix.lower()
    try:
        if suffix in _IMAGES:
            return _read_image(path, frames, target)
        if suffix in _VIDEOS:
            return _read_video(path, start, frames, target)
    except (av.error.FFmpegError, OSError, UnidentifiedImageError) as error:
        raise DecodeError(str(error)) from None
    raise DecodeError(f"neither a video ({', '.join(_VIDEOS)}) nor an image")


def _read_image(path: str, frames: int, target: tuple[int, int]) -> tuple[Tensor, float]:
    if frames != 1:
        raise DecodeError(f"an image, where {frames} frames are wanted")
    with Image.open(path) as picture:
        return transforms.image(picture.convert("RGB"), target)[:, None], IMAGE_FPS


def _read_video(
    path: str, start: int, frames: int, target: tuple[int, int]
) -> tuple[Tensor, float]:
    clip = torch.empty(3, frames, *target)
    count = 0
    with av.open(path) as container:
        if not container.streams.video:
            raise DecodeError("no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"  # frame threads read ahead of what is wanted
        rate = stream.average_rate
        for frame in _frames_from(container, stream, start):
            clip[:, count] = transforms.video_frame(frame.to_ndarray(format="rgb24"), target)
            count += 1
            if count == frames:
                break
    if count < frames:
        raise DecodeError(f"{start + count} frames, where {start + frames} are wanted")
    return clip, float(math.floor(rate)) if rate else _DEFAULT_FPS


def _frames_from(
    container: InputContainer, stream: VideoStream, start: int
) -> Iterator[VideoFrame]:
    """Frames from number `start` on; from the nearest key frame where times tell frames apart."""
    step = _ticks_of_a_frame(stream)
    if start == 0 or step is None:
        yield from _skip(container.decode(stream), start)
        return
    first = stream.start_time or 0
    wanted = first + start * step
    container.seek(int(wanted - step / 2), stream=stream)
    for frame in container.decode(stream):
        if frame.pts is None:
            raise DecodeError("frames without times")
        if frame.pts > wanted - step / 2:
            yield frame


def _skip(frames: Iterator[VideoFrame], count: int) -> Iterator[VideoFrame]:
    for number, frame in enumerate(frames):
        if number >= count:
            yield frame


def _ticks_of_a_frame(stream: VideoStream) -> float | None:
    """Length of a frame in the stream's time base, if all frames are equally long."""
    rate, base = stream.average_rate, stream.time_base
    if not rate or not base or stream.guessed_rate != rate or stream.base_rate != rate:
        return None
    return float(1 / (rate * base))
