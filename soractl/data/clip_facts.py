"""One clip's file: what its header says of it, and whether all of it can be decoded."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.data.formats import IMAGES, VIDEOS

NOT_A_CLIP = f"neither a video ({', '.join(VIDEOS)}) nor an image"


class Unreadable(Exception):
    """Why a file is of no use as a clip."""


def measure(path: str, _: int | None = None) -> dict[str, Any]:
    """Its numbers as a table of clips has them; Unreadable says why there are none."""
    size = _size(path)
    read = _measure_image if _is_image(path) else _measure_video
    frames, height, width, fps = read(path)
    return {
        "num_frames": frames,
        "height": height,
        "width": width,
        "aspect_ratio": height / width,
        "fps": fps,
        "resolution": height * width,
        "file_size": size,
    }


def decode(path: str, expected_frames: int | None = None) -> dict[str, Any]:
    """Decode every frame; Unreadable names the first fault.

    A fault is also what the decoder mends and only complains of, and fewer frames than expected.
    """
    _size(path)
    frames = _decode_image(path) if _is_image(path) else _decode_video(path)
    if frames == 0:
        raise Unreadable("no frames")
    if expected_frames is not None and frames < expected_frames:
        raise Unreadable(f"{frames} frames, where the table says {expected_frames}")
    return {"num_frames": frames}


def _is_image(path: str) -> bool:
    suffix = Path(path).suffix.lower()
    if suffix not in (*IMAGES, *VIDEOS):
        raise Unreadable(NOT_A_CLIP)
    return suffix in IMAGES


def _size(path: str) -> int:
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None
    if size == 0:
        raise Unreadable("the file is empty")
    return size


def _measure_image(path: str) -> tuple[int, int, int, float]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return 1, picture.height, picture.width, math.nan
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unreadable(_first_line(error)) from None


def _decode_image(path: str) -> int:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unreadable(_first_line(error)) from None
    return 1


def _measure_video(path: str) -> tuple[int, int, int, float]:
    with _opened(path) as (container, _):
        stream = _video_stream(container)
        rate, height, width = stream.average_rate, stream.height, stream.width
        frames = stream.frames or sum(1 for _ in container.decode(stream))
    if not (frames and height and width):
        raise Unreadable(f"{frames} frames of {width} x {height} pixels")
    return frames, height, width, float(rate) if rate else math.nan


def _decode_video(path: str) -> int:
    with _opened(path) as (container, complaints):
        frames = sum(1 for _ in container.decode(_video_stream(container)))
    if complaints:
        raise Unreadable(_worded(complaints[0]))
    return frames


@contextmanager
def _opened(path: str) -> Iterator[tuple[Any, list[tuple[int, str, str]]]]:
    """A video, and what its decoder complains of while it is read; Unreadable if it gives up."""
    import av

    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # "repeated" may mean by the file before
    with av.logging.Capture(local=False) as complaints:
        try:
            with av.open(path) as container:
                yield container, complaints
        except (av.error.FFmpegError, OSError) as error:
            reasons = [_first_line(error), *map(_worded, complaints[:1])]
            raise Unreadable(": ".join(reasons)) from None


def _worded(complaint: tuple[int, str, str]) -> str:
    _, component, message = complaint
    return f"{component}: {message.strip()}" if component else message.strip()


def _video_stream(container: Any) -> Any:
    if not container.streams.video:
        raise Unreadable("no video stream")
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1  # as many clips as cores are read at once
    return stream


def _first_line(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).split("\n")[0]
