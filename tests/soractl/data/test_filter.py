import json

import pandas
import pytest

from tests.soractl.data.seven_clips import ROWS, WHOLE
from tests.soractl.data.test_table import size_of


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


def test_a_column_of_numbers_that_is_empty_in_every_row_is_refused(workplace):
    columns = {"path": ["a.mp4"], "text": ["a cat"], "num_frames": [None]}
    pandas.DataFrame(columns).to_parquet(workplace.folder / "in.parquet")
    limits = ("--min-frames", "21")
    done = workplace.soractl("data", "filter", "in.parquet", "--out", "out.csv", *limits, code=2)
    assert done.stderr == (
        "error: in.parquet: no row has a number as num_frames\n"
        "hint: soractl data info in.parquet --out in_info.parquet\n"
    )
