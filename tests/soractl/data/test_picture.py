import itertools
import math
from pathlib import Path

import numpy as np
import pandas
import pytest
from matplotlib.colors import to_hex

from soractl.data import picture as data_picture
from soractl.data.buckets import BucketRow, Epoch
from soractl.data.picture import Picture, bucket_map, histograms, save, ticks


def clips(frames, **columns):
    return pandas.DataFrame({"num_frames": frames, **columns})


def panel(figure, number=0):
    figure.draw_without_rendering()
    return figure.axes[number]


def written(labels):
    return [label.get_text() for label in labels if label.get_text()]


def overlap(labels):
    boxes = [label.get_window_extent() for label in labels if label.get_text()]
    return [pair for pair in itertools.pairwise(boxes) if pair[0].x1 >= pair[1].x0]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (54, 99, [60, 70, 80, 90]),
        (9, 110, [10, 20, 50, 100]),
        (0.9, 2200, [1, 3, 10, 30, 100, 300, 1000]),
        (0.5, 2e5, [1, 10, 100, 1000, 1e4, 1e5]),
        (1e-9, 1e13, [1e-9, 1e-5, 0.1, 1000, 1e7, 1e11]),
    ],
)
def test_an_axis_has_a_few_numbers_however_wide_it_is(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("decades", [*np.arange(0.05, 6, 0.25).tolist(), 9, 13, 20, 40])
@pytest.mark.parametrize("low", [0.37, 7777])
def test_numbers_on_an_axis_never_touch_and_never_vanish(low, decades):
    figure = histograms({"clips": clips([low, low * 10**decades], aspect_ratio=[0.5, 1])})
    labels = panel(figure).get_xticklabels()
    assert 2 <= len(written(labels)) <= 9
    assert overlap(labels) == []


def test_equal_values_are_one_narrow_bar_with_numbers_on_both_sides():
    axis = panel(histograms({"clips": clips([100.0] * 7)}))
    [patch] = axis.patches
    heights = patch.get_xy()
    [low, high] = [edge for edge, count in heights if count == 7][:2]
    assert 90 < low < 100 < high < 110
    assert written(axis.get_xticklabels()) == ["50", "100", "200"]


def test_counts_of_clips_are_whole_numbers():
    axis = panel(histograms({"clips": clips([10, 1000])}))
    assert written(axis.get_yticklabels()) == ["0", "1", "2"]


def test_large_counts_are_short():
    axis = panel(histograms({"clips": clips(np.full(40_000, 9.0))}))
    assert written(axis.get_yticklabels()) == ["0", "10k", "20k", "30k", "40k", "50k"]


def test_one_odd_shape_leaves_room_for_the_usual_ones():
    ratios = [0.5625] * 50 + [1.0] * 50 + [1.78] * 50 + [400.0]
    axis = panel(histograms({"clips": clips([9.0] * 151, aspect_ratio=ratios)}), 1)
    [patch] = axis.patches
    counts = [count for _, count in patch.get_xy()]
    assert [count for count in dict.fromkeys(counts) if count] == [50, 1]
    assert counts.count(50) == 6  # three bars with two corners each: none shares a bin


def test_a_column_that_is_empty_in_all_tables_is_drawn_as_unknown():
    figure = histograms({"clips": clips([9, 10], aspect_ratio=[math.nan, math.nan])})
    assert written(panel(figure, 1).texts) == ["unknown"]
    assert histograms({"clips": pandas.DataFrame({"path": ["a.mp4"]})}) is None


def test_many_tables_with_long_names_have_colours_of_their_own_in_a_whole_legend():
    name = "a_table_of_clips_with_a_name_that_fills_most_of_a_line_by_itself_part_{}".format
    tables = {name(number): clips(range(10, 20 + number)) for number in range(30)}
    figure = histograms(tables)
    figure.draw_without_rendering()
    [legend] = figure.legends
    labels = written(legend.get_texts())
    assert len(labels) == len(data_picture.COLOURS) == 9
    assert labels[0].endswith("_part_22: 32")
    assert labels[-1] == f"22 others: {sum(range(10, 32))}"
    colours = {to_hex(patch.get_facecolor()) for patch in legend.get_patches()}
    assert len(colours) == 9
    drawn = {to_hex(patch.get_edgecolor()) for patch in figure.axes[0].patches}
    assert drawn == colours
    box, page = legend.get_window_extent(), figure.bbox
    assert box.x0 >= page.x0
    assert box.x1 <= page.x1
    assert figure.axes[0].get_window_extent().height > 150


def test_a_map_shows_shares_and_dropped_clips_by_reason():
    figure = bucket_map(
        Epoch(
            stage="small",
            table=Path("t/clips.csv"),
            clips=8,
            ranks=1,
            steps=1,
            rows=(
                BucketRow("240p", 17, 1, 5, 5, 50),
                *(BucketRow("144p", n, 1, c, c, 10 * c) for n, c in ((1, 0), (17, 1))),
            ),
            dropped_by_reason={"too small": 1, "odd": 1},
            balance={},
            is_possible=True,
        )
    )
    assert figure.get_suptitle() == "small, first epoch of 8 clips in clips.csv"
    places = {
        tuple(map(round, text.get_position())): text.get_text() for text in panel(figure).texts
    }
    assert places == {(1, 0): "62.5 %", (0, 1): "0", (1, 1): "12.5 %"}
    assert written(panel(figure).get_xticklabels()) == ["1", "17"]
    assert written(panel(figure).get_yticklabels()) == ["240p", "144p"]
    assert written(panel(figure, 1).texts) == ["83.3 %", "0", "16.7 %"]
    dropped = panel(figure, 2)
    assert dropped.get_title() == "not trained on: 2 of 8 clips"
    assert written(dropped.get_yticklabels()) == ["too small", "odd"]
    assert written(dropped.texts) == ["1 (12.5 %)", "1 (12.5 %)"]


def test_a_picture_that_cannot_be_written_is_a_note(tmp_path):
    figure = histograms({"clips": clips([9, 10])})
    (tmp_path / "a.png").mkdir()
    picture = save(figure, tmp_path / "a.png")
    assert picture == Picture(notes=(f"no picture: {tmp_path}/a.png: Is a directory",))
    assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]
    assert save(None, tmp_path / "b.png") == Picture()
