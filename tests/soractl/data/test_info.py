import json
import multiprocessing
import os
import signal
from pathlib import Path

import pandas
import pytest

from soractl.clips.clip_queue import QueueTiming
from soractl.data.info import InfoOptions, info
from tests.soractl.data.odd_files import write_video

XVID = Path(__file__).parents[2] / "recorded/clips/xvid_b_frames.avi"


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Forty good clips."""
    folder = tmp_path_factory.mktemp("many")
    write_video(folder / "00.mp4", frames=20)
    for number in range(1, 40):
        (folder / f"{number:02d}.mp4").write_bytes((folder / "00.mp4").read_bytes())
    return sorted(folder.iterdir())


def test_a_folder_becomes_a_table_and_what_cannot_be_read_another(workplace, odd):
    (odd / ".hidden.mp4").touch()
    (odd / "notes.txt").touch()
    done = workplace.soractl("data", "info", str(odd), "--out", "clips.csv", code=3)
    table = pandas.read_csv("clips.csv")
    failed = pandas.read_csv("clips.failed.csv")
    assert [name.rpartition("/")[2] for name in table["path"]] == [
        *("cut.mkv", "cut.png", "flipped.mp4", "good.mkv", "good.mp4", "good.png"),
        "one-frame.mp4",
    ]
    assert list(table.columns) == [
        *("path", "text", "num_frames", "height", "width"),
        *("aspect_ratio", "fps", "resolution", "file_size"),
    ]
    assert sorted(name.rpartition("/")[2] for name in failed["path"]) == [
        *("audio-only.mp4", "cut.mp4", "empty.mp4", "text.mov"),
    ]
    assert done.stdout.splitlines()[-1] == (
        "7 clips measured, 4 failed: clips.csv, clips.failed.csv, clips.png"
    )
    assert "1 no video stream" in done.stdout
    assert sorted(file.name for file in workplace.folder.iterdir()) == sorted(
        ["bin", "clips.csv", "clips.failed.csv", "clips.png", "data", "hostfiles", "locks"]
    )


def test_a_table_keeps_its_rows_and_columns_and_gains_numbers(workplace, odd):
    workplace.write("in.csv", "video,caption,score\ngood.mp4,a line,7\none-frame.mp4,,8\n")
    options = ("--out", "out.parquet", "--root", str(odd), "--json")
    values = json.loads(workplace.soractl("data", "info", "in.csv", *options).stdout)
    assert values["clips"] == 2
    table = pandas.read_parquet("out.parquet")
    assert table["path"].tolist() == [f"{odd}/good.mp4", f"{odd}/one-frame.mp4"]
    assert table["score"].tolist() == [7, 8]
    assert table["num_frames"].tolist() == [40, 1]


def test_a_path_in_two_rows_is_measured_once(workplace, odd):
    workplace.write("in.csv", f"path,text\n{odd}/good.mp4,a\n{odd}/good.mp4,b\n")
    done = workplace.soractl("data", "info", "in.csv", "--out", "out.csv")
    assert done.stdout.splitlines()[0] == "1 row with a path that another row has"
    assert pandas.read_csv("out.csv")["text"].tolist() == ["a"]


def test_it_is_a_failure_if_no_clip_can_be_read(workplace):
    workplace.write("in.csv", "path,text\nmissing.mp4,a\n")
    done = workplace.soractl("data", "info", "in.csv", "--out", "out.csv", code=1)
    assert done.stdout == (
        "1 No such file or directory\n0 clips measured, 1 failed: out.failed.csv\n"
    )
    assert not (workplace.folder / "out.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("in.csv", "--out", "in.csv"), "error: in.csv is also an input"),
        (("in.csv", "--out", "out.txt"), "error: out.txt: the name of a table ends in .csv or"),
        (("in.csv", "--out", "no/out.csv"), "error: no/out.csv: no folder no"),
        (("gone.csv", "--out", "out.csv"), "error: gone.csv: No such file or directory"),
        (("bare.csv", "--out", "out.csv"), "error: bare.csv has no column path; it has: a, b"),
        (("nothing.csv", "--out", "out.csv"), "error: nothing.csv is empty"),
        (("bin", "--out", "out.csv"), "error: bin: no file in it ends in .mp4, .avi,"),
    ],
)
def test_a_bad_input_or_output_is_one_error_before_the_work(workplace, arguments, error):
    workplace.write("in.csv", "path,text\nmissing.mp4,a\n")
    workplace.write("bare.csv", "a,b\n1,2\n")
    workplace.write("nothing.csv", "")
    done = workplace.soractl("data", "info", *arguments, code=2)
    assert done.stderr.startswith(error)


def measure_some_and_die():
    """`data info` in chunks of four clips, killed when some of them are recorded."""

    def show(count):
        if count.done >= 8:
            os.kill(os.getpid(), signal.SIGKILL)

    info(InfoOptions((Path("in.csv"),), Path("out.csv")), show, QueueTiming(most_clips=4))


def test_a_killed_command_continues_without_measuring_clips_again(workplace, many):
    clips = "\n".join(map(str, many))
    workplace.write("in.csv", f"path\n{clips}\n")
    journal = workplace.folder / ".out.csv.journal"
    process = multiprocessing.get_context("spawn").Process(target=measure_some_and_die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done_before = [json.loads(line)["path"] for line in journal.read_text().splitlines()]
    assert 8 <= len(done_before) < 40
    for path in done_before:
        Path(path).rename(f"{path}.away")  # measuring it again would fail
    workplace.soractl("data", "info", "in.csv", "--out", "out.csv")
    assert pandas.read_csv("out.csv")["num_frames"].tolist() == [20] * 40
    assert not journal.exists()


def test_a_file_name_that_is_not_text_is_one_failed_row(workplace, odd):
    folder = workplace.folder / "clips"
    folder.mkdir()
    for name in ("a\udcff.mp4", "b.mp4", "c\nd.mp4"):
        (folder / name).write_bytes((odd / "good.mp4").read_bytes())
    done = workplace.soractl("data", "info", "clips", "--out", "out.csv", code=3)
    assert done.stdout.splitlines() == [
        "1 its name is not Unicode text, which a table needs",
        "2 clips measured, 1 failed: out.csv, out.failed.csv, out.png",
    ]
    assert pandas.read_csv("out.csv")["path"].tolist() == [
        f"{folder}/b.mp4",
        f"{folder}/c\nd.mp4",
    ]
    assert pandas.read_csv("out.failed.csv")["path"].tolist() == [f"{folder}/a\\xff.mp4"]


def test_a_header_with_another_number_of_frames_is_reported(workplace):
    workplace.write("in.csv", f"path,num_frames\n{XVID},many\n")
    done = workplace.soractl("data", "info", "in.csv", "--out", "out.csv")
    assert done.stdout.splitlines() == [
        "1 clip shows another number of frames than the header says",
        f"  {XVID}: 23 shown, 25 in the header",
        "1 clip measured, 0 failed: out.csv, out.png",
    ]
    assert pandas.read_csv("out.csv")["num_frames"].tolist() == [23]
    done = workplace.soractl("data", "info", "in.csv", "--out", "out.csv", "--json")
    assert json.loads(done.stdout)["header_differs"] == [
        {"path": str(XVID), "num_frames": 23, "header_frames": 25}
    ]


@pytest.mark.parametrize("command", [("merge",), ("filter",), ("check",), ("buckets", "smoke")])
def test_a_column_without_any_number_is_refused_before_anything_is_written(workplace, command):
    workplace.write("in.csv", "path,text,num_frames\na.mp4,a cat,unknown\n")
    out = () if "buckets" in command else ("--out", "out.csv")
    done = workplace.soractl("data", *command, "in.csv", *out, code=2)
    assert done.stderr == "error: in.csv: row 0 has num_frames = unknown; no number\n"
    assert not list(workplace.folder.glob("out*"))
