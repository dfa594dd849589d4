"""Videos as files: H.264 mp4 that plays while it loads, a poster beside it, a contact sheet."""

from collections.abc import Sequence
from pathlib import Path

import av
from PIL import Image, ImageDraw
from torch import Tensor

from trainer.checkpoint_dir import DRAFT

POSTER_SUFFIX = ".poster.png"
CONTACT_SHEET = "contact_sheet.png"
_STRIP = 5  # frames of a video on a contact sheet
_CELL_HEIGHT = 120  # pixels
_CAPTION_HEIGHT = 16
_GAP = 4


def write_video(video: Tensor, path: Path, fps: int) -> None:
    """uint8 [T, H, W, 3] as H.264 mp4, or PNG for one frame; under its name only when whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{DRAFT}{path.name}")
    if len(video) == 1:
        _image(video[0]).save(draft)
    else:
        _, height, width, _ = video.shape
        even = video[:, : height - height % 2, : width - width % 2].numpy()  # yuv420p halves both
        # the index stands before the frames, so that a browser plays what it has
        with av.open(str(draft), "w", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
            stream.height, stream.width = even.shape[1:3]
            stream.pix_fmt = "yuv420p"
            for frame in even:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode())
    draft.replace(path)


def poster_of(path: Path) -> Path:
    """The still picture of a video; of a picture, itself."""
    return path if path.suffix == ".png" else path.with_suffix(POSTER_SUFFIX)


def write_poster(video: Tensor, path: Path) -> None:
    """The middle frame of uint8 [T, H, W, 3] as PNG."""
    draft = path.with_name(f"{DRAFT}{path.name}")
    _image(video[len(video) // 2]).save(draft)
    draft.replace(path)


def write_contact_sheet(films: Sequence[tuple[Path, str]], path: Path) -> None:
    """One strip of frames a video, under its caption, as PNG."""
    strips = [(_strip(film), caption) for film, caption in films]
    width = max(strip.width for strip, _ in strips)
    row = _CELL_HEIGHT + _CAPTION_HEIGHT
    sheet = Image.new("RGB", (width, row * len(strips)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (strip, caption) in enumerate(strips):
        text = caption.encode("latin-1", "replace").decode("latin-1")  # all that the font has
        draw.text((2, row * number + 2), text, fill="black")
        sheet.paste(strip, (0, row * number + _CAPTION_HEIGHT))
    draft = path.with_name(f"{DRAFT}{path.name}")
    sheet.save(draft)
    draft.replace(path)


def _image(frame: Tensor) -> Image.Image:
    return Image.fromarray(frame.numpy())


def _strip(film: Path) -> Image.Image:
    """Frames of a film side by side, evenly spaced from the first to the last."""
    if film.suffix == ".png":
        with Image.open(film) as picture:
            frames = [picture.convert("RGB")]
    else:
        with av.open(str(film)) as container:
            frames = [frame.to_image() for frame in container.decode(video=0)]
    last = len(frames) - 1
    chosen = (
        [frames[round(last * part / (_STRIP - 1))] for part in range(_STRIP)] if last else frames
    )
    cells = [
        cell.resize((_CELL_HEIGHT * cell.width // cell.height, _CELL_HEIGHT)) for cell in chosen
    ]
    width = cells[0].width + _GAP
    strip = Image.new("RGB", (width * len(cells), _CELL_HEIGHT), "white")
    for number, cell in enumerate(cells):
        strip.paste(cell, (number * width, 0))
    return strip
