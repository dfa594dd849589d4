import json
from pathlib import Path

import pandas

from soractl.data import merge as data_merge
from soractl.data import picture as data_picture
from tests.soractl.data.seven_clips import ROWS, WHOLE


def test_merge_renames_published_columns_and_drops_repeated_paths(workplace):
    workplace.write(
        "openvid.csv",
        "video,caption,aesthetic score,fps,frame\na.mp4,a cat,5.1,24,90\nb.mp4,a dog,4.2,25,80\n",
    )
    workplace.write(
        "mira.csv",
        "clip_id,file_path,short_caption,dense_caption,height,width,fps\n"
        "1,c.mp4,cow,a brown cow,720,1280,30\n2,a.mp4,cat,a grey cat,720,1280,30\n",
    )
    done = workplace.soractl("data", "merge", "openvid.csv", "mira.csv", "--out", "all.csv")
    assert (workplace.folder / "all.csv").read_text() == (
        "path,text,num_frames,height,width,fps\n"
        "a.mp4,a cat,90.0,,,24\n"
        "b.mp4,a dog,80.0,,,25\n"
        "c.mp4,a brown cow,,720.0,1280.0,30\n"
    )
    assert done.stdout == (
        "TABLE        ROWS  REPEATED\n"
        "openvid.csv  2     0\n"
        "mira.csv     2     1\n"
        "columns that not all tables have: aesthetic score, clip_id, short_caption\n"
        "1 row without num_frames\n"
        "2 rows without height\n"
        "2 rows without width\n"
        "hint: soractl data info all.csv --out OUT measures them\n"
        "3 rows: all.csv, all.png\n"
    )


def test_merge_of_equal_tables_keeps_every_column_and_number(workplace, table):
    workplace.write(
        "more.csv",
        f"{WHOLE},mood\n{ROWS.replace('.mp4', '.mkv')}".replace("\n", ",1\n").replace(
            "mood,1", "mood"
        ),
    )
    done = workplace.soractl("data", "merge", "in.csv", "more.csv", "--out", "all.csv", "--json")
    values = json.loads(done.stdout)
    assert (values["rows"], values["dropped_columns"]) == (14, ["mood"])
    merged = pandas.read_csv("all.csv")
    pandas.testing.assert_frame_equal(merged.iloc[:7], pandas.read_csv("in.csv"))
    assert values["rows_without"] == {"text": 2}


def test_tables_of_one_name_in_two_folders_are_both_in_the_picture(workplace):
    for folder, clips in (("a", 3), ("b", 2)):
        rows = "".join(f"{folder}{number}.mp4,{number + 9}\n" for number in range(clips))
        workplace.write(f"{folder}/clips.csv", f"path,num_frames\n{rows}")
    merged = data_merge.merge([Path("a/clips.csv"), Path("b/clips.csv")], Path("all.csv"))
    [legend] = data_picture.histograms(merged.series).legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["a/clips.csv: 3", "b/clips.csv: 2"]
