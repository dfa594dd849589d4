"""A picture's file as a viewer shows it: turned, in 8 bits, on a plain background.

Measuring, checking, training and sampling read pictures here, so that they agree. Of an animated
picture or one of several pages it is the first.
"""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image

from trainer.data.formats import Unfit

BACKGROUND = 255  # behind transparent parts: white, as a page
# Exif 2.32, tag 0x0112: how the stored picture gets to the shown one.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)  # these turn width into height
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0


@contextmanager
def opened(path: str) -> Iterator[Image.Image]:
    """A picture of which only the header is read."""
    with Image.open(path) as picture:
        yield picture


def shown_size(picture: Image.Image) -> tuple[int, int]:
    """(height, width) as it is shown, from the header alone."""
    if _orientation(picture) in _LYING:
        return picture.width, picture.height
    return picture.height, picture.width


def shown(picture: Image.Image) -> Image.Image:
    """The RGB picture that is shown; Unfit if its brightness cannot be known."""
    turn = _TURNS.get(_orientation(picture))
    picture.load()
    if picture.mode in _DEEP:
        flat = Image.fromarray(_in_eight_bits(picture)).convert("RGB")
    elif picture.has_transparency_data:
        flat = Image.fromarray(on_background(np.asarray(picture.convert("RGBA"))))
    else:
        flat = picture.convert("RGB")
    return flat if turn is None else flat.transpose(turn)


def on_background(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """uint8 [h, w, 4] over the background: uint8 [h, w, 3]."""
    wide: np.ndarray[Any, Any] = pixels.astype(np.uint32)
    colour, alpha = wide[..., :3], wide[..., 3:]
    return ((colour * alpha + BACKGROUND * (255 - alpha) + 127) // 255).astype(np.uint8)


def _in_eight_bits(picture: Image.Image) -> np.ndarray[Any, Any]:
    """Grey of more than 8 bits as uint8 [h, w]: black stays black, and white white."""
    tags = getattr(picture, "tag_v2", {})
    values = np.nan_to_num(np.asarray(picture).astype(np.float64)) / _white(picture.mode, tags)
    if values.max(initial=0) > 1.01:  # some resizing overshoots
        raise Unfit(f"grey values up to {values.max():g}, where 1 is white")
    values = values.clip(0, 1)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = 1 - values
    return (values * 255).round().astype(np.uint8)


def _white(mode: str, tags: Any) -> int:
    if mode == "F":
        return 1
    [bits] = tags.get(_BITS_PER_SAMPLE, (16,))
    return int(2 ** min(bits, 31) - 1)


def _orientation(picture: Image.Image) -> int:
    """Orientation of the picture, 1 to 8; 1 is as it is, also if it is unknown."""
    if picture.format == "TIFF":
        return 1  # Pillow turns these itself
    if picture.format == "PNG" and "exif" not in picture.info and _has_exif(picture):
        picture.load()  # of a PNG it may come after the pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is damaged is passed over
            exif = Image.Image.getexif(picture)  # a PNG's own would always read all pixels
            return int(exif.get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, TypeError, ValueError, KeyError, OSError, struct.error):
        return 1  # damaged data about a picture that can be seen


def _has_exif(picture: Image.Image) -> bool:
    """True if a PNG has Exif data anywhere."""
    with Path(str(picture.filename)).open("rb") as file:
        file.seek(8)
        return any(name == b"eXIf" for name in _chunks(file))


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Names of a PNG's chunks, from the first on."""
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        yield name
        file.seek(length + 4, 1)
