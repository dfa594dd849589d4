import subprocess

import pandas
import pytest
from PIL import Image

from tests.soractl.data.seven_clips import WHOLE


def size_of(picture):
    with Image.open(picture) as image:
        return image.size


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


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_path_that_is_a_number_is_a_name(workplace, kind):
    workplace.write("in.csv", "video,caption\n7,007\n8,1e3\n")
    pandas.DataFrame({"video": [7, 8], "caption": ["007", "1e3"]}).to_parquet("in.parquet")
    done = workplace.soractl("data", "check", f"in.{kind}", code=1)
    assert "  7: No such file" in done.stdout
    workplace.soractl("data", "filter", f"in.{kind}", "--out", "out.csv")
    assert (workplace.folder / "out.csv").read_text() == "path,text\n7,007\n8,1e3\n"
