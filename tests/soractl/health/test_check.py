import pytest

from soractl.health.check import (
    Check,
    Level,
    Seen,
    Unreadable,
    at_least,
    at_most_an_hour,
    equals,
    judge,
    majority,
    near_most,
    no_message,
    number,
    same,
)
from soractl.health.facts import Facts


def facts(value, uptime="36000"):
    return Facts({"eth": {"eno1": {"mtu": value}}, "system": {"": {"uptime": uptime}}})


def seen(value, most=None, uptime="36000"):
    return Seen(value, "eno1", {}, facts(value, uptime), most)


MTU = Check(id="eth.mtu", of="eth", field="mtu", title="MTU", rule=same, remedy="-", by_name=True)


def test_numbers_have_units_and_words_are_none():
    assert [number(text) for text in ("700.00 W", "16x", "-8 C")] == [700, 16, -8]
    with pytest.raises(Unreadable, match="no number: many"):
        number("many")


def test_a_counter_is_judged_by_the_hour_and_a_young_node_by_its_first():
    rule = at_most_an_hour(2)
    assert rule(seen("20")) == ""
    assert rule(seen("21")) == "21 in 10 h, which is 2.1 an hour, at most 2"
    assert rule(seen("2", uptime="60")) == ""
    with pytest.raises(Unreadable):
        rule(seen("2", uptime="?"))


def test_what_a_start_takes_is_not_counted():
    rule = at_most_an_hour(0.5, free=2)
    assert (rule(seen("2", uptime="60")), rule(seen("7"))) == ("", "")
    assert rule(seen("3", uptime="60")) == "3 in 1 h, which is 1 an hour, at most 0.5"


def test_unlimited_is_enough():
    assert at_least(4096)(seen("unlimited")) == ""


def test_the_last_message_is_the_reason_and_the_others_are_counted():
    rule = no_message("I/O error")
    assert rule(seen("a: I/O error\nb: fine")) == "a: I/O error"
    assert rule(seen("a: I/O error\nb: I/O error")) == "b: I/O error (2 such)"


def test_a_majority_is_more_than_half():
    def most(*values):
        return majority(MTU, [facts(value) for value in values])

    assert most("9000", "9000", "1500") == {"eno1": "9000"}
    assert most("9000", "1500") == {"eno1": None}
    assert most("9000", "?", "N/A") == {"eno1": "9000"}


def test_a_number_near_that_of_most_is_good():
    rule = near_most(2)
    assert [rule(seen(value, "1000")) for value in ("990", "900")] == ["", "900, most have 1000"]


def test_a_thing_is_not_judged_where_its_condition_fails():
    off = Check(**{**vars(MTU), "when": lambda seen: ""})
    assert list(judge(off, facts("9000"), {})) == []


def test_a_kind_that_could_not_be_read_is_unknown_once():
    [finding] = judge(MTU, Facts(missing={"eth": "no answer"}), {})
    assert (finding.level, finding.reason) == (Level.UNKNOWN, "no answer")


def test_a_reason_has_the_title_before_it():
    check = Check(**{**vars(MTU), "rule": equals("9000")})
    [finding] = judge(check, facts("1500"), {})
    assert (finding.level, finding.reason) == (Level.BAD, "MTU: 1500, expected 9000")
