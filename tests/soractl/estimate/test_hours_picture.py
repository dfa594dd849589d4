from PIL import Image

from soractl.estimate.hours_picture import draw, write
from soractl.estimate.rates import GPUS
from soractl.estimate.report import bucket_hours
from soractl.estimate.stage import estimate


def test_bars_are_the_hours_of_buckets_the_largest_first(table, tmp_path):
    found = estimate("stage1", table, 2, GPUS["h100"])
    (panel,) = draw([found]).axes
    names = [label.get_text() for label in panel.get_yticklabels()]
    largest = max(zip(bucket_hours(found), found.rows, strict=True), key=lambda pair: pair[0])[1]
    assert names[0] == f"{largest.name}, {largest.batch_size}"
    hours = found.gpu_hours(cached=found.cached)
    assert panel.get_title("left").startswith(f"stage1: {hours:,.0f} GPU-hours on 2 ranks, ")
    assert write([found], tmp_path / "hours.png") == ()
    with Image.open(tmp_path / "hours.png") as picture:
        assert picture.width > 800
