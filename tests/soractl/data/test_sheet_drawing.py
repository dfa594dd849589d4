from pathlib import Path

from soractl.data import sheet as data_sheet
from soractl.data import sheet_drawing


def test_what_is_cut_off_is_the_rest_of_the_frame():
    clip = data_sheet.Clip(
        row=0, path="", caption="", source=(9, 9), num_frames=1, kept=(0.0, 0.25, 1.0, 0.75)
    )
    assert clip.cut_off == 0.5
    assert sheet_drawing._shades(clip).count("<div") == 2


def test_text_of_a_table_is_no_html():
    clip = data_sheet.Clip(
        row=0, path="<x>.mp4", caption="<b>", source=(9, 9), num_frames=1, fault="<i>"
    )
    group = data_sheet.Group("no bucket: too small", 1, (clip,))
    page = sheet_drawing.as_html(data_sheet.Sheet("smoke", Path("<t>.csv"), (group,)))
    for text in ("<x>", "<b>", "<i>", "<t>"):
        assert text not in page
