from pathlib import Path

import pytest

from soractl.terminal import text
from soractl.terminal.text import span


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (59.7, "1 min 00 s"),
        (192, "3 min 12 s"),
        (18_420, "5 h 07 min"),
        (187_200, "2 d 04 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds, shown):
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (True, "true"),
        (1.6e-5, "1.6e-05"),
        ((1.0, (0.5, 2)), "[1.0, [0.5, 2]]"),
        ("one_cycle", "one_cycle"),
    ],
)
def test_a_setting_looks_as_in_its_file(value, shown):
    assert text.value(value) == shown


def test_a_path_below_this_folder_is_short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert text.path(tmp_path / "runs/001-x") == "runs/001-x"
    assert text.path(tmp_path.parent) == str(tmp_path.parent)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_960, "100 kB"),
        (999_900, "1.0 MB"),
        (4e9, "4.0 GB"),
        (2.5e15, "2500 TB"),
    ],
)
def test_sizes_have_three_digits_at_most(number, expected):
    assert text.size(number) == expected


def test_limits_in_seconds_have_at_most_one_decimal_everywhere():
    assert [span(s) for s in (3.47376, 20, 0.5, 0.04, 119.96)] == [
        *("3.5 s", "20 s", "0.5 s", "0.04 s", "120 s"),
    ]
    for module in (Path(__file__).parents[3] / "soractl").rglob("*.py"):
        assert ":g} s" not in module.read_text(), module
