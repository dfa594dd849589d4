import pytest

from trainer.data.formats import Unfit, is_image


@pytest.mark.parametrize(
    ("path", "image"), [("a.PNG", True), ("a/b.c/d.jpeg", True), ("a.mp4", False), ("b.MKV", False)]
)
def test_the_ending_tells_pictures_from_videos(path, image):
    assert is_image(path) == image


@pytest.mark.parametrize("path", ["a.txt", "mp4", "a.mp4.part", ""])
def test_a_name_with_another_ending_is_refused(path):
    with pytest.raises(Unfit) as caught:
        is_image(path)
    assert str(caught.value) == "neither a video (.mp4, .avi, .mov, .mkv) nor an image"
