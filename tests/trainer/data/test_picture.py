import numpy as np
import pytest
from PIL import Image

from soractl.clips.clip_facts import decode, measure
from trainer.data import picture
from trainer.data.decode import read_frames
from trainer.data.formats import Unfit

RAMP = np.tile(np.arange(0, 256, 32), (8, 1))
# Exif orientation -> from stored to shown, of an array [h, w, 3]
SHOWN = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


def stored_pixels():
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def look(path):
    """What is shown, uint8 [h, w, 3], and (height, width) by the header."""
    with picture.opened(str(path)) as image:
        size = picture.shown_size(image)
    with picture.opened(str(path)) as image:
        return np.asarray(picture.shown(image)), size


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "jpg"])
def test_a_picture_is_turned_as_its_exif_data_says(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture.{suffix}"
    options = {"quality": 95, "lossless": True} if suffix == "webp" else {"quality": 95}
    Image.fromarray(stored_pixels()).save(path, exif=exif, **options)
    with Image.open(path) as image:
        image.load()
        stored = stored_pixels() if suffix != "jpg" else np.asarray(image)
    pixels, size = look(path)
    assert np.array_equal(pixels, SHOWN[orientation](stored))
    assert size == pixels.shape[:2]
    facts = measure(str(path))
    assert (facts["num_frames"], facts["height"], facts["width"]) == (1, *size)


def test_exif_data_behind_a_pngs_pixels_counts_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "picture.png"
    Image.fromarray(stored_pixels()).save(path, exif=exif)
    content = path.read_bytes()
    begin = content.index(b"eXIf") - 4
    end = begin + 12 + int.from_bytes(content[begin : begin + 4])
    tail = content.index(b"IEND") - 4
    path.write_bytes(content[:begin] + content[end:tail] + content[begin:end] + content[tail:])
    pixels, size = look(path)
    assert np.array_equal(pixels, np.rot90(stored_pixels(), -1))
    assert size == (40, 24)


def test_damaged_exif_data_turns_nothing(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(stored_pixels()).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    pixels, size = look(path)
    assert np.array_equal(pixels, stored_pixels())
    assert size == (24, 40)


@pytest.mark.parametrize("name", ["ramp.png", "ramp.tiff", "ramp.pgm"])
def test_grey_of_16_bits_keeps_its_ramp(tmp_path, name):
    Image.fromarray((RAMP * 257).astype(np.uint16)).save(tmp_path / name)
    assert np.array_equal(look(tmp_path / name)[0][..., 0], RAMP)
    assert decode(str(tmp_path / name)) == {"num_frames": 1}


def test_grey_of_fractions_is_black_at_0_and_white_at_1(tmp_path):
    Image.fromarray((RAMP / 255).astype(np.float32)).save(tmp_path / "ramp.tiff")
    assert np.array_equal(look(tmp_path / "ramp.tiff")[0][..., 1], RAMP)
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "bright.tiff")
    with pytest.raises(Unfit, match="grey values up to 224, where 1 is white"):
        look(tmp_path / "bright.tiff")


def palette_with_a_hole():
    image = Image.fromarray(np.array([[0, 1, 2, 1]] * 4, np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 0, 0, 0, 0, 255])
    return image, {"transparency": 0}


@pytest.mark.parametrize(
    ("image", "options", "colours"),
    [
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), {}, [[255, 255, 255]]),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 51)), {}, [[255, 204, 204]]),
        (Image.new("LA", (4, 4), (0, 0)), {}, [[255, 255, 255]]),
        (Image.new("RGB", (4, 4), (1, 2, 3)), {"transparency": (1, 2, 3)}, [[255, 255, 255]]),
        (*palette_with_a_hole(), [[0, 0, 0], [0, 0, 255], [255, 255, 255]]),
    ],
    ids=["hidden red", "a fifth of red", "grey with alpha", "a colour is clear", "palette"],
)
def test_what_is_transparent_shows_a_white_page(tmp_path, image, options, colours):
    image.save(tmp_path / "picture.png", **options)
    pixels, _ = look(tmp_path / "picture.png")
    assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == colours


def test_a_picture_for_print_is_shown_in_its_colours(tmp_path):
    Image.new("RGB", (16, 16), (250, 10, 10)).convert("CMYK").save(tmp_path / "ink.jpg", quality=95)
    pixels, _ = look(tmp_path / "ink.jpg")
    assert np.abs(pixels.astype(int) - (250, 10, 10)).max() < 12


@pytest.mark.parametrize("name", ["moving.webp", "moving.png", "pages.tiff"])
def test_of_several_pictures_in_a_file_the_first_is_read(tmp_path, name):
    pages = [Image.new("RGB", (48, 32), colour) for colour in ("white", "black")]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    clip, _ = read_frames(str(tmp_path / name), 0, 1, 32, 48)
    assert clip.unique().tolist() == [1.0]
    assert measure(str(tmp_path / name))["num_frames"] == 1
