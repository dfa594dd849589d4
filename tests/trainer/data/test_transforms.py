import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from trainer.data.transforms import ResizeCrop, image, resize_crop, video_frame


@pytest.mark.parametrize(
    ("source", "target", "plan"),
    [
        ((720, 1280), (240, 426), ResizeCrop(scaled=(240, 427), excess=(0, 1))),
        ((480, 640), (240, 426), ResizeCrop(scaled=(320, 426), excess=(80, 0))),
        ((1280, 720), (240, 426), ResizeCrop(scaled=(757, 426), excess=(517, 0))),
        ((240, 426), (240, 426), ResizeCrop(scaled=(240, 426), excess=(0, 0))),
        ((100, 100), (256, 256), ResizeCrop(scaled=(256, 256), excess=(0, 0))),
    ],
)
def test_a_frame_is_scaled_until_it_covers_the_target(source, target, plan):
    assert resize_crop(source, target) == plan


def test_every_size_covers_the_target_and_touches_it_on_one_side():
    sizes = [(h, w) for h in range(37, 700, 61) for w in range(41, 700, 67)]
    for source in sizes:
        for target in [(144, 256), (256, 144), (240, 426), (171, 171)]:
            excess = resize_crop(source, target).excess
            assert min(excess) == 0, (source, target, excess)


def test_a_frame_keeps_its_middle():
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None] / 255
    scaled = F.interpolate(pixels, size=(320, 426), mode="bilinear", antialias=False)
    expected = scaled[0, :, 40:280] * 2 - 1
    torch.testing.assert_close(video_frame(frame, (240, 426)), expected)


def test_a_frame_of_the_right_size_is_only_normalised():
    frame = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 15
    expected = (torch.from_numpy(frame).permute(2, 0, 1) / 255 - 0.5) / 0.5
    assert torch.equal(video_frame(frame, (2, 3)), expected)


def test_black_is_minus_one_and_white_is_one():
    for value, level in [(0, -1.0), (255, 1.0)]:
        frame = np.full((60, 80, 3), value, dtype=np.uint8)
        for result in (video_frame(frame, (24, 32)), image(Image.fromarray(frame), (24, 32))):
            assert torch.equal(result, torch.full((3, 24, 32), level))


@pytest.mark.parametrize(("excess", "offset"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)])
def test_a_picture_is_cropped_at_half_the_excess_rounded_to_even(excess, offset):
    columns = np.arange(8 + excess, dtype=np.uint8) * 9
    picture = Image.fromarray(np.tile(columns[None, :, None], (8, 1, 3)))
    expected = torch.from_numpy(columns[offset : offset + 8]) / 255 * 2 - 1
    torch.testing.assert_close(image(picture, (8, 8))[0, 0], expected)


@pytest.mark.parametrize(("excess", "offset"), [(1, 0), (2, 1), (3, 1), (5, 2), (7, 3)])
def test_a_frame_is_cropped_at_half_the_excess_rounded_down(excess, offset):
    columns = np.arange(8 + excess, dtype=np.uint8) * 9
    frame = np.tile(columns[None, :, None], (8, 1, 3))
    expected = torch.from_numpy(columns[offset : offset + 8]) / 255 * 2 - 1
    torch.testing.assert_close(video_frame(frame, (8, 8))[0, 0], expected)


def test_a_picture_is_scaled_with_pillows_bicubic_filter():
    pixels = np.random.default_rng(1).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    expected = np.array(picture.resize((64, 48), Image.Resampling.BICUBIC))
    result = (image(picture, (48, 64)).permute(1, 2, 0) * 0.5 + 0.5) * 255
    np.testing.assert_array_equal(result.round().numpy().astype(np.uint8), expected)
