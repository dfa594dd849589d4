import html

import numpy as np
import pytest
from PIL import Image

from soractl.data import sheet as data_sheet
from trainer.seeds import derive_seed

CAPTION = "a <b>cat</b> & a mouse"


@pytest.fixture
def table(tmp_path):
    """Pictures, of which three fill a bucket of smoke, one is too small and one is no picture."""
    rows = []
    for number in range(3):
        pixels = np.zeros((180, 240, 3), np.uint8)
        pixels[:, :, number] = 200
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{tmp_path / f'{number}.png'},{CAPTION},1,180,240")
    (tmp_path / "broken.png").write_text("no picture")
    rows.append(f"{tmp_path / 'broken.png'},,1,180,240")
    Image.new("RGB", (20, 10)).save(tmp_path / "tiny.png")
    rows.append(f"{tmp_path / 'tiny.png'},tiny,1,10,20")
    file = tmp_path / "clips.csv"
    file.write_text("\n".join(["path,text,num_frames,height,width", *rows]) + "\n")
    return file


def test_clips_stand_under_their_buckets_and_the_others_under_their_reasons(table):
    found = data_sheet.plan("smoke", table, 10, ())
    *buckets, small = found.groups
    assert [(group.title.partition(":")[0], group.count) for group in buckets] == [
        ("144p/1/0.75", 4)
    ]
    assert (small.title, small.count) == ("no bucket: too small for every resolution", 1)


def test_rows_are_spread_over_the_table(table):
    found = data_sheet.plan("smoke", table, 2, ())
    assert [clip.row for clip in found.groups[0].clips] == [0, 2]


def test_the_window_is_the_one_that_training_draws(tmp_path):
    file = tmp_path / "clips.csv"
    file.write_text("path,text,num_frames,height,width\na.mp4,,60,144,256\n")
    (clip,) = data_sheet.plan("smoke", file, 1, ()).groups[0].clips
    last = 60 - clip.frames
    assert clip.start == derive_seed(42, 0, 0, "window") % (last + 1)


def test_a_sheet_shows_crops_what_is_cut_off_captions_and_faults(workplace, table):
    printed = workplace.soractl(
        "data", "sheet", "smoke", str(table), "--out", "s.html", "--per-bucket", "9"
    ).stdout
    assert "written: s.html, s.png" in printed
    assert "broken.png: " in printed
    page = (workplace.folder / "s.html").read_text()
    assert html.escape(CAPTION) in page
    assert CAPTION not in page
    assert page.count('class="whole"') == 4  # also of the one that no bucket takes
    with Image.open(workplace.folder / "s.png") as picture:
        colours = {colour for _, colour in picture.getcolors(2**24)}
    assert (255, 255, 255) in colours
    assert any(red > 180 and green < 30 and blue < 30 for red, green, blue in colours)


def test_a_page_needs_its_ending(workplace, table):
    refused = workplace.soractl("data", "sheet", "smoke", str(table), "--out", "s.txt", code=2)
    assert "ends in .html" in refused.stderr
