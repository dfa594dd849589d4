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
    assert table.lines(20) == ["stage", "smoke", "    instead of configs/smoke.toml"]
