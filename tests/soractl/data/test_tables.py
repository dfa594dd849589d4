import json
import subprocess
from pathlib import Path

import pandas
import pytest
from PIL import Image

from soractl.data import merge as data_merge
from soractl.data import picture as data_picture

WHOLE = "path,text,num_frames,height,width,aspect_ratio,fps,resolution,file_size"
ROWS = """\
a.mp4,a cat,100,720,1280,0.5625,24,921600,1000000
b.mp4, ,100,720,1280,0.5625,24,921600,1000000
c.mp4,a dog,20,720,1280,0.5625,24,921600,1000000
d.mp4,a cow,100,720,1280,0.5625,24,921600,52428800
e.mp4,a pig,100,144,256,0.5625,24,36864,1000000
f.mp4,,20,144,256,0.5625,24,36864,52428801
g.mp4,a hen,100,720,1280,0.5625,24,921600,52428799
"""


@pytest.fixture
def table(workplace):
    return workplace.write("in.csv", f"{WHOLE}\n{ROWS}")


def size_of(picture):
    with Image.open(picture) as image:
        return image.size


def test_filter_keeps_rows_that_pass_every_rule_and_counts_the_others_by_their_first_reason(
    workplace, table
):
    limits = ("--min-frames", "21", "--max-mb", "50", "--min-pixels", "100000")
    done = workplace.soractl("data", "filter", "in.csv", "--out", "out.csv", *limits)
    assert done.stdout == (
        "ROWS  DROPPED FOR\n"
        "2     empty caption\n"
        "1     fewer than 21 frames\n"
        "1     50 MiB or larger\n"
        "1     fewer than 100000 pixels\n"
        "2 of 7 rows kept: out.csv, out.dropped.csv, out.png\n"
    )
    assert (workplace.folder / "out.dropped.csv").read_text() == (
        "path,reason\n"
        "b.mp4,empty caption\n"
        "c.mp4,fewer than 21 frames\n"
        "d.mp4,50 MiB or larger\n"
        "e.mp4,fewer than 100000 pixels\n"
        "f.mp4,empty caption\n"
    )
    kept = pandas.read_csv("out.csv")
    pandas.testing.assert_frame_equal(
        kept, pandas.read_csv("in.csv").iloc[[0, 6]].reset_index(drop=True)
    )
    assert size_of("out.png")[0] > 1000


def test_filter_may_keep_clips_without_a_caption(workplace, table):
    workplace.write("out.dropped.parquet", "of an earlier command")
    options = ("--out", "out.parquet", "--keep-empty-captions", "--json")
    values = json.loads(workplace.soractl("data", "filter", "in.csv", *options).stdout)
    assert values == {
        "schema_version": 1,
        "out": "out.parquet",
        "drops": None,
        "picture": "out.png",
        "rows": 7,
        "kept": 7,
        "dropped": {},
    }
    assert len(pandas.read_parquet("out.parquet")) == 7
    assert not (workplace.folder / "out.dropped.parquet").exists()


def test_filter_never_writes_an_empty_table_or_over_its_input(workplace, table):
    done = workplace.soractl(
        "data", "filter", "in.csv", "--out", "out.csv", "--min-frames", "999", code=1
    )
    assert done.stdout.endswith("0 of 7 rows kept: out.dropped.csv; out.csv is not written\n")
    assert len(pandas.read_csv("out.dropped.csv")) == 7
    assert not (workplace.folder / "out.csv").exists()
    workplace.soractl("data", "filter", "in.csv", "--out", "./in.csv", code=2)
    assert table.read_text() == f"{WHOLE}\n{ROWS}"


@pytest.mark.parametrize("size", ["-1", "0", "nan", "inf"])
def test_filter_refuses_a_size_that_is_not_positive(workplace, table, size):
    done = workplace.soractl(
        "data", "filter", "in.csv", "--out", "out.csv", "--max-mb", size, code=2
    )
    assert done.stderr == (f"error: --max-mb must be a positive number of MiB: {float(size):g}\n")


def test_filter_says_which_column_is_missing_or_no_number(workplace):
    workplace.write("in.csv", "path,text,num_frames\na.mp4,a cat,10\n")
    missing = workplace.soractl(
        "data", "filter", "in.csv", "--out", "out.csv", "--max-mb", "5", code=2
    )
    assert missing.stderr == (
        "error: in.csv has no column file_size\nhint: soractl data info in.csv --out in_info.csv\n"
    )
    workplace.write("in.csv", "path,text,num_frames\na.mp4,a cat,ten\n")
    wrong = workplace.soractl(
        "data", "filter", "in.csv", "--out", "out.csv", "--min-frames", "5", code=2
    )
    assert wrong.stderr == "error: in.csv: row 0 has num_frames = ten; no number\n"


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


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_table_for_which_there_is_no_room_leaves_the_old_one_and_nothing_else(
    workplace, small_disk, name
):
    rows = "".join(f"{number}.mp4,{number * number}\n" for number in range(100_000))
    workplace.write("in.csv", f"path,text\n{rows}")
    disk = small_disk("400k")
    out = disk / name
    out.write_text("the old one\n")
    done = workplace.soractl("data", "filter", "in.csv", "--out", str(out), code=1)
    assert done.stderr.startswith(f"error: {out}: ")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [file.name for file in disk.iterdir()] == [name]
    assert out.read_text() == "the old one\n"


def test_a_picture_for_which_there_is_no_room_is_a_note_after_the_counts(
    workplace, small_disk, table
):
    disk = small_disk("8k")  # the table and its drops are there, two blocks
    done = workplace.soractl("data", "filter", "in.csv", "--out", f"{disk}/out.csv")
    assert done.stdout.endswith(f"5 of 7 rows kept: {disk}/out.csv, {disk}/out.dropped.csv\n")
    assert done.stderr == f"no picture: {disk}/out.png: No space left on device\n"
    assert sorted(file.name for file in disk.iterdir()) == ["out.csv", "out.dropped.csv"]


@pytest.mark.parametrize(
    "command",
    [
        ("check", "in.csv", "--out"),
        ("filter", "in.csv", "--out"),
        ("info", "in.csv", "--out"),
        ("merge", "in.csv", "--out"),
        ("buckets", "smoke", "in.csv", "--picture"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_checks_its_output_before_it_reads_a_table(workplace, small_disk, command):
    workplace.write("in.csv", "not read\n")
    disk = small_disk("400k")
    ending = "png" if "--picture" in command else "csv"
    (disk / f"taken.{ending}").mkdir()
    taken = workplace.soractl("data", *command, f"{disk}/taken.{ending}", code=2)
    assert taken.stderr == (
        f"error: {disk}/taken.{ending} is a folder\nhint: give the name of a file\n"
    )
    remount = ["mount", "-o", "remount,ro", str(disk)]
    subprocess.run(remount, check=True)
    refused = workplace.soractl("data", *command, f"{disk}/out.{ending}", code=2)
    assert refused.stderr == (
        f"error: {disk}/out.{ending}: cannot write in {disk}: Read-only file system\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        ("buckets", "stage1", "none.csv"),
        ("check", "none.csv"),
        ("filter", "none.csv", "--out", "out.csv"),
        ("info", "none.csv", "--out", "out.csv"),
        ("merge", "in.csv", "none.csv", "--out", "out.csv"),
    ],
    ids=lambda command: command[0],
)
def test_a_table_without_rows_is_refused_by_every_command(workplace, table, command):
    workplace.write("none.csv", f"{WHOLE}\n")
    done = workplace.soractl("data", *command, code=2)
    assert done.stderr == "error: none.csv has no rows\n"


def test_rows_with_more_fields_than_the_header_are_refused_not_shifted(workplace):
    workplace.write("in.csv", "path,text\n0,a.mp4,a cat\n1,b.mp4,a dog\n")
    done = workplace.soractl("data", "merge", "in.csv", "--out", "out.csv", code=2)
    assert done.stderr == (
        "error: in.csv: rows have more fields than the header\n"
        "hint: quote texts that hold a comma, and name every column\n"
    )


def test_tables_of_one_name_in_two_folders_are_both_in_the_picture(workplace):
    for folder, clips in (("a", 3), ("b", 2)):
        rows = "".join(f"{folder}{number}.mp4,{number + 9}\n" for number in range(clips))
        workplace.write(f"{folder}/clips.csv", f"path,num_frames\n{rows}")
    merged = data_merge.merge([Path("a/clips.csv"), Path("b/clips.csv")], Path("all.csv"))
    [legend] = data_picture.histograms(merged.series).legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["a/clips.csv: 3", "b/clips.csv: 2"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_path_that_is_a_number_is_a_name(workplace, kind):
    workplace.write("in.csv", "video,caption\n7,007\n8,1e3\n")
    pandas.DataFrame({"video": [7, 8], "caption": ["007", "1e3"]}).to_parquet("in.parquet")
    done = workplace.soractl("data", "check", f"in.{kind}", code=1)
    assert "  7: No such file" in done.stdout
    workplace.soractl("data", "filter", f"in.{kind}", "--out", "out.csv")
    assert (workplace.folder / "out.csv").read_text() == "path,text\n7,007\n8,1e3\n"


def test_a_column_of_numbers_that_is_empty_in_every_row_is_refused(workplace):
    columns = {"path": ["a.mp4"], "text": ["a cat"], "num_frames": [None]}
    pandas.DataFrame(columns).to_parquet(workplace.folder / "in.parquet")
    limits = ("--min-frames", "21")
    done = workplace.soractl("data", "filter", "in.parquet", "--out", "out.csv", *limits, code=2)
    assert done.stderr == (
        "error: in.parquet: no row has a number as num_frames\n"
        "hint: soractl data info in.parquet --out in_info.parquet\n"
    )
