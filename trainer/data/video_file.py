"""A video's file as a player shows it: its film, the frames that are shown, turned and in shape.

Measuring, checking, training and sampling read videos here, so that they agree.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple, cast

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from trainer.data.formats import Unfit
from trainer.data.picture import on_background

_PREFERRED = 5_000_000  # pixels by which a stream that is marked as default counts as larger
_SKIPS_FRAMES = ("mpeg4", "msmpeg4v3", "msmpeg4v2")  # a packet may hold no frame, or two
_NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


class Turn(NamedTuple):
    """Steps from a decoded frame to the shown one: transposed first, then mirrored."""

    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after it."""
        return (width, height) if self.transposed else (height, width)

    def apply(self, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """[h, w, 3] turned."""
        if not any(self):
            return pixels
        turned = pixels.swapaxes(0, 1) if self.transposed else pixels
        rows, columns = (-1 if flipped else 1 for flipped in (self.upside_down, self.mirrored))
        return np.ascontiguousarray(turned[::rows, ::columns])


class Film:
    """The video stream that a player shows of an open file."""

    def __init__(self, container: InputContainer) -> None:
        self.container = container
        self.stream = _film_of(container)
        self.stream.codec_context.thread_count = 1  # processes share the cores
        self._turn: Turn | None = None

    @property
    def header_frames(self) -> int:
        """Number of frames in the header; 0 if it has none."""
        return self.stream.frames

    @property
    def rate(self) -> Fraction | None:
        """Frames per second, on average."""
        return self.stream.average_rate

    def frames(self) -> Iterator[VideoFrame]:
        """Those that are shown, from the first; an av.FFmpegError where they end with a fault."""
        return self.container.decode(self.stream)

    def packets(self) -> Iterator[tuple["Packet[VideoStream]", bool]]:
        """All that the film is decoded from, and whether a player shows what a packet holds.

        It does not show what lies outside the edit list or needs frames of before the first key
        frame.
        """
        key: Packet[VideoStream] | None = None
        for packet in self.container.demux(self.stream):
            if key is None and packet.is_keyframe:
                key = packet
            yield packet, key is not None and not (packet.is_discard or _precedes(packet, key))

    def indexed_frames(self) -> int | None:
        """Number of shown frames, if the index leaves no doubt; reads the first packet.

        It does if each of its entries is a frame that is shown: none lies outside the edit list,
        before the first key frame or behind the end of the file.
        """
        if not self._is_indexed:
            return None
        entries = self.stream.index_entries
        count = len(entries)
        if any(entry.is_discard for entry in entries) or not entries[0].is_keyframe:
            return None
        if max(entry.pos + entry.size for entry in entries) > self.container.size:
            return None
        first = next(self.container.demux(self.stream), None)
        start = self.stream.start_time
        if first is None or first.pts is None or (start is not None and first.pts > start):
            return None  # frames before the first key frame that need others of before it
        return count

    @property
    def _is_indexed(self) -> bool:
        is_whole = 0 < self.stream.frames == len(self.stream.index_entries)
        names = self.container.format.name.split(",")
        return is_whole and "mov" in names and self.stream.codec.name not in _SKIPS_FRAMES

    def pixels(self, frame: VideoFrame) -> np.ndarray[Any, Any]:
        """uint8 [h, w, 3] as it is shown, but for the shape of its pixels."""
        if _is_transparent(frame.format.name):
            flat = on_background(frame.to_ndarray(format="rgba"))
        else:
            flat = frame.to_ndarray(format="rgb24")
        return self._turn_of(frame).apply(flat)

    def shown_size(self, frame: VideoFrame) -> tuple[int, int]:
        """(height, width) of a frame as it is shown."""
        return self._turn_of(frame).size(*self._in_shape(frame.height, frame.width))

    def header_size(self) -> tuple[int, int] | None:
        """The same by the header; None if only a frame says how it is turned."""
        if _mentions_a_turn(self.container):
            return None
        return self._in_shape(self.stream.height, self.stream.width)

    def _turn_of(self, frame: VideoFrame) -> Turn:
        """The header's, which stands in every frame; one of single frames is not shown."""
        if self._turn is None:
            turn = turn_of(frame)
            self._turn = turn if any(turn) and _mentions_a_turn(self.container) else Turn()
        return self._turn

    def _in_shape(self, height: int, width: int) -> tuple[int, int]:
        """With square pixels: the shorter side of an oblong pixel grows."""
        aspect = self.stream.sample_aspect_ratio or Fraction(1)
        if aspect >= 1:
            return height, round(width * aspect)
        return round(height / aspect), width


@contextmanager
def opened(path: str) -> Iterator[Film]:
    """A video's film; Unfit if it has none, and whatever av raises."""
    # without `file:` a relative name like `12:30.mp4` is an address
    with av.open(f"file:{path}", metadata_errors="replace") as container:
        yield Film(container)


def turn_of(frame: VideoFrame) -> Turn:
    """The turn in a frame's display matrix: quarter turns and mirrors; others are not shown.

    The matrix is [[a, b], [c, d]] of x' = a x + c y, y' = b x + d y (ISO/IEC 14496-12, 8.3.2).
    """
    data = cast(Any, frame.side_data).get(Type.DISPLAYMATRIX)
    if data is None:
        return Turn()
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
    if max(abs(b), abs(c)) * 50 < min(abs(a), abs(d)):
        return Turn(upside_down=d < 0, mirrored=a < 0)
    if max(abs(a), abs(d)) * 50 < min(abs(b), abs(c)):
        return Turn(True, upside_down=b < 0, mirrored=c < 0)
    return Turn()


def _film_of(container: InputContainer) -> VideoStream:
    """The largest stream that is neither a cover nor a thumbnail, the default one first.

    That is the stream that ffmpeg takes.
    """
    films = [stream for stream in container.streams.video if not stream.disposition & _NO_FILM]
    if not films:
        raise Unfit("no video stream")
    return max(films, key=_size_of)


def _size_of(stream: VideoStream) -> int:
    is_preferred = bool(stream.disposition & Disposition.default)
    return stream.height * stream.width + _PREFERRED * is_preferred


def _precedes(packet: "Packet[VideoStream]", other: "Packet[VideoStream]") -> bool:
    return packet.pts is not None and other.pts is not None and packet.pts < other.pts


def _mentions_a_turn(container: InputContainer) -> bool:
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)  # the description comes as log lines
    try:
        return "displaymatrix" in cast(Any, container).dumps_format().replace(" ", "").lower()
    finally:
        av.logging.set_level(level)


@lru_cache
def _is_transparent(name: str) -> bool:
    components = av.VideoFormat(name).components
    return name != "pal8" and any(component.is_alpha for component in components)
