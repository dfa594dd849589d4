import random

import pytest

from soractl.terminal.table import Table

CHECKPOINTS = Table(
    ("CHECKPOINT", "STEP", "READ BY"),
    (("epoch0-global_step10", "10", "sync-n1-0123456789"), ("epoch0-global_step20", "20", "-")),
    words=1,
)


def test_a_column_of_words_goes_below_its_row_and_an_empty_one_goes():
    assert CHECKPOINTS.lines(60) == CHECKPOINTS.lines()
    assert CHECKPOINTS.lines(40) == [
        "CHECKPOINT            STEP",
        "epoch0-global_step10  10",
        "    READ BY: sync-n1-0123456789",
        "epoch0-global_step20  20",
    ]


def test_a_column_without_a_name_has_none_below_its_row_either():
    table = Table(("stage", ""), (("smoke", "instead of configs/smoke.toml"),), words=1)
    assert table.lines(34) == ["stage", "smoke", "    instead of configs/smoke.toml"]


def test_columns_are_aligned_and_lines_end_without_spaces():
    assert Table(("node", "gpus", ""), [("n1", 8, ""), ("node-002", 12, "busy")]).lines() == [
        "node      gpus",
        "n1        8",
        "node-002  12    busy",
    ]


def test_numbers_without_room_stand_side_by_side_below_their_row():
    table = Table(("BUCKET", "CLIPS", "SHARE", "TOKENS"), [("144p/51", 1200, "34.5 %", "1.2 M")])
    assert table.lines(24) == [
        "BUCKET   CLIPS  SHARE",
        "144p/51  1200   34.5 %",
        "    TOKENS: 1.2 M",
    ]
    assert table.lines(20) == [
        "BUCKET   CLIPS",
        "144p/51  1200",
        "    SHARE: 34.5 %",
        "    TOKENS: 1.2 M",
    ]


def test_a_column_of_bars_goes_before_any_number():
    table = Table(("A", "B", ""), [("1", "2", "#######")], has_bar=True)
    assert table.lines(12) == ["A  B", "1  2"]


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("seed", range(20))
def test_no_table_is_wider_than_its_terminal_and_none_loses_a_cell(width, seed):
    draw = random.Random(seed)
    columns = draw.randint(1, 12)
    rows = [
        [f"c{row}.{column} " + "word " * draw.randint(0, 16) for column in range(columns)]
        for row in range(4)
    ]
    headers = tuple(f"HEADER {column}" for column in range(columns))
    for row in rows:
        row[0] = row[0][:40]
    lines = Table(headers, rows, words=draw.randint(0, columns - 1)).lines(width)
    assert max(map(len, lines)) <= width
    shown = " ".join(" ".join(lines).split())
    assert all(f"c{row}.{column}" in shown for row in range(4) for column in range(columns))
