import pytest
import torch

from trainer.sampling.judge import measures_of


def grey(levels, height=64, width=96):
    """uint8 [T, H, W, 3]: one level a frame."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, height, width, 3)


def test_a_grey_video_that_stands_still_has_no_motion_no_edges_and_no_colour():
    assert measures_of(grey([128] * 5)) == {
        "motion": 0.0,
        "flicker": 0.0,
        "sharpness": 0.0,
        "saturation": 0.0,
        "contrast": 0.0,
        "colours": [128.0] * 48,
    }


def test_a_steady_change_is_motion_and_a_jump_to_and_fro_is_flicker():
    steady, jumping = measures_of(grey([100, 104, 108, 112])), measures_of(grey([100, 104] * 2))
    assert (steady["motion"], jumping["motion"]) == (4.0, 4.0)
    assert (steady["flicker"], jumping["flicker"]) == (0.0, 4.0)


def test_stripes_of_one_pixel_are_sharp_and_flicker_looks_at_blocks():
    video = grey([0] * 4).clone()
    video[::2, :, ::2] = 200  # the stripes move by one pixel in each frame
    video[1::2, :, 1::2] = 200
    found = measures_of(video)
    assert found["sharpness"] == pytest.approx(400, rel=1e-3)
    assert found["contrast"] == pytest.approx(100, rel=1e-3)
    assert (found["motion"], found["flicker"]) == (pytest.approx(200), pytest.approx(0, abs=1e-3))


def test_colours_are_those_of_blocks_and_saturation_is_as_in_hsv():
    video = grey([0, 0]).clone()
    video[:, :, :48, 0] = 200  # red on the left
    found = measures_of(video)
    assert found["saturation"] == pytest.approx(0.5)
    assert found["colours"] == [*[200.0, 0.0, 0.0] * 2, *[0.0] * 6] * 4


def test_one_frame_has_no_motion_and_two_have_no_flicker():
    one, two = measures_of(grey([7])), measures_of(grey([7, 9]))
    assert (one["motion"], one["flicker"]) == (None, None)
    assert (two["motion"], two["flicker"]) == (2.0, None)
