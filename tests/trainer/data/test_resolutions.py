import json

import numpy as np
import pytest

from trainer.data.buckets import closest_labels
from trainer.data.resolutions import RATIOS, RESOLUTIONS, frame_count, image_size


def test_every_table_is_the_published_one_in_its_order(golden):
    published = json.loads((golden / "aspect_ratios.json").read_text())
    for name, table in published["ASPECT_RATIOS"].items():
        sizes = [[label, list(size)] for label, size in RESOLUTIONS[name].sizes.items()]
        assert (RESOLUTIONS[name].pixels, sizes) == (table["num_pixels"], table["sizes_h_w"])
    assert published["ASPECT_RATIO_MAP"] == RATIOS


def test_sizes_lengths_and_closest_ratios_are_the_published_ones(golden):
    published = json.loads((golden / "inference_sizes.json").read_text())
    for text, frames in published["get_num_frames"].items():
        assert frame_count(text) == frames
    for resolution, sizes in published["get_image_size_h_w"].items():
        for ratio, size in sizes.items():
            if size is None:
                with pytest.raises(ValueError, match="has no ratio"):
                    image_size(resolution, ratio)
            else:
                assert image_size(resolution, ratio) == tuple(size)
    for resolution, height, width, label in published["get_closest_ratio"]:
        [position] = closest_labels(resolution, np.array([height / width]))
        assert list(RESOLUTIONS[resolution].sizes)[position] == label


@pytest.mark.parametrize("text", ["0", "-3", "three", "2.5"])
def test_a_length_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="is no number of frames"):
        frame_count(text)


def test_an_unknown_resolution_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="there are: 144p, 256, 240p"):
        image_size("145p", "9:16")
