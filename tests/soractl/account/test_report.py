from soractl.account.report import goodput_json, goodput_rows, report_json, report_lines
from tests.soractl.account.test_page import ACCOUNT, EMPTY


def test_the_report_says_the_same_in_lines_and_for_programs():
    lines = [str(line) for line in report_lines(ACCOUNT) if isinstance(line, str)]
    assert "ETTR 54.5 %" in [" ".join(line.split()) for line in lines]
    parts, causes = (line.lines(100) for line in report_lines(ACCOUNT)[-5:-1:2])
    assert parts[-1].split() == ["all", "1", "min", "50", "s", "100.0", "%"]
    assert causes[1].split() == ["hardware", "1", "100.0", "%", "38", "s", "not", "known"]
    shown = report_json(ACCOUNT)
    assert (shown["wall_s"], shown["seconds"]["training"], shown["ettr"]) == (110, 60, 60 / 110)
    assert shown["timeout_alone_s"] == 570.0


def test_status_shows_the_share_of_time_that_counts_and_restarts():
    [(name, words)] = goodput_rows(ACCOUNT)
    assert (name, words) == ("goodput", "54.5 % of 1 min 50 s in steps that count, 0 restarts")
    assert goodput_json(ACCOUNT)["goodput"] == {
        "ettr": 60 / 110, "wall_s": 110.0, "restarts": 0, "interruptions": 1,
    }  # fmt: skip


def test_a_run_that_has_not_begun_has_no_goodput():
    assert goodput_rows(None) == goodput_rows(EMPTY) == []
    assert goodput_json(None) == {"goodput": None}
