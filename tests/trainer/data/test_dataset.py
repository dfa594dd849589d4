import numpy as np
import pandas as pd
import pytest

from trainer.data.dataset import load_clips
from trainer.settings import ConfigError

CSV = """\
path,text,num_frames,height,width,fps
/clips/a.mp4,"a cat, asleep",40,240,426,24.0
/clips/b.mp4,,60,480,640,
/clips/c.png,3,1,100,200,
"""


def write(folder, text, name="clips.csv"):
    path = folder / name
    path.write_text(text)
    return path


def fault_of(path):
    with pytest.raises(ConfigError) as caught:
        load_clips(path)
    assert len(caught.value.faults) == 1
    return caught.value.faults[0].replace(str(path), "FILE")


def test_a_table_is_read_with_empty_captions_where_none_are(tmp_path):
    clips = load_clips(write(tmp_path, CSV))
    assert len(clips) == 3
    assert [clips.path_of(row) for row in range(3)] == [
        "/clips/a.mp4",
        "/clips/b.mp4",
        "/clips/c.png",
    ]
    assert clips.captions_of([2, 0, 1]) == ["3", "a cat, asleep", ""]
    numbers = [clips.num_frames, clips.height, clips.width]
    assert [column.tolist() for column in numbers] == [
        [40, 60, 1],
        [240, 480, 100],
        [426, 640, 200],
    ]
    assert {column.dtype for column in numbers} == {np.dtype(np.int64)}


def test_parquet_and_csv_give_the_same_table(tmp_path):
    path = write(tmp_path, CSV)
    pd.read_csv(path).to_parquet(tmp_path / "clips.parquet")
    from_csv, from_parquet = load_clips(path), load_clips(tmp_path / "clips.parquet")
    assert from_csv.fingerprint == from_parquet.fingerprint
    assert from_csv.captions_of(range(3)) == from_parquet.captions_of(range(3))


def test_a_table_without_any_caption_is_read(tmp_path):
    path = write(tmp_path, "path,text,num_frames,height,width\na.mp4,,1,2,3\nb.mp4,,1,2,3\n")
    assert load_clips(path).captions_of([0, 1]) == ["", ""]


def test_names_and_captions_that_are_numbers_stay_as_they_are_written(tmp_path):
    path = write(tmp_path, "path,text,num_frames,height,width\n007,1e3,1,2,3\n08,,1,2,3\n")
    clips = load_clips(path)
    assert [clips.path_of(0), clips.path_of(1)] == ["007", "08"]
    assert clips.captions_of([0, 1]) == ["1e3", ""]


def test_whole_numbers_that_are_written_as_fractions_are_read(tmp_path):
    path = write(tmp_path, "path,text,num_frames,height,width\na.mp4,x,40.0,240.0,426\n")
    assert load_clips(path).num_frames.tolist() == [40]


@pytest.mark.parametrize(
    "change",
    [
        ("a.mp4", "d.mp4"),
        ("40,240", "41,240"),
        ("/clips/c.png,3,1,100,200,\n", ""),
        ("480,640", "640,480"),
    ],
)
def test_the_fingerprint_changes_with_what_decides_the_order(tmp_path, change):
    before = load_clips(write(tmp_path, CSV)).fingerprint
    after = load_clips(write(tmp_path, CSV.replace(*change))).fingerprint
    assert before != after


def test_the_fingerprint_does_not_depend_on_captions_or_other_columns(tmp_path):
    before = load_clips(write(tmp_path, CSV)).fingerprint
    other = CSV.replace("a cat", "a dog").replace("24.0", "30.0")
    assert load_clips(write(tmp_path, other)).fingerprint == before


def test_rows_in_another_order_are_other_data(tmp_path):
    head, first, *rest = CSV.splitlines()
    before = load_clips(write(tmp_path, CSV)).fingerprint
    after = load_clips(write(tmp_path, "\n".join([head, *rest, first]))).fingerprint
    assert before != after


def test_a_missing_file_is_named_with_what_to_do(tmp_path):
    expected = "data.path = FILE: no such file; `--set data.path=OTHER` names another"
    assert fault_of(tmp_path / "clips.csv") == expected


def test_missing_columns_are_named_with_those_that_are_there(tmp_path):
    path = write(tmp_path, "path,caption,num_frames,height\na,b,1,2\n")
    expected = "FILE has no column text, width; it has: path, caption, num_frames, height"
    assert fault_of(path) == expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "FILE is empty"),
        (CSV.splitlines()[0], "FILE has no rows"),
        (CSV.replace("480", "tall"), "FILE: row 1 has height = tall; no number"),
        (CSV.replace("480", ""), "FILE: row 1 has height = nan; no number"),
        (CSV.replace("480", "inf"), "FILE: row 1 has height = inf; no number"),
        (CSV.replace("/clips/b.mp4", ""), "FILE: row 1 has no path"),
        (
            "path,text,num_frames,height,width\n0,a.mp4,x,40,240,426\n1,b.mp4,x,40,240,426\n",
            "FILE: rows have more fields than the header; a text with a comma needs quotes",
        ),
    ],
)
def test_a_table_that_cannot_be_trained_on_is_refused_with_the_reason(tmp_path, text, fault):
    assert fault_of(write(tmp_path, text)) == fault


@pytest.mark.parametrize("name", ["clips.csv", "clips.parquet"])
def test_a_file_that_is_no_table_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'\xff\x00"a,b\n1,2,3\n"\xfe' * 9)
    assert fault_of(path).startswith("FILE cannot be read as a table: ")


def test_a_folder_is_no_table(tmp_path):
    assert fault_of(tmp_path) == "FILE cannot be read: Is a directory"
