import sqlite3
from pathlib import Path

import pytest

from soractl.errors import Fault, FaultKind
from soractl.health.check import Finding, Level
from soractl.health.examine import CHECKS, Health, NodeHealth, Since
from soractl.health.history import DAY_S, KEPT_DAYS, remember, with_past
from soractl.remote.nodes import Node, NodeSource

NOON = 1_796_040_000
ECC = next(check for check in CHECKS if check.id == "gpu.ecc_mode")
KEY = ("n1", "gpu.ecc_mode", "3")


def row(level, node="n1", item="3"):
    return NodeHealth(Node(node), (Finding(ECC, level, item, "why"),))


@pytest.fixture
def look(tmp_path):
    """Looks, a minute apart, at one GPU with these verdicts; the past after the last."""

    def play(*levels, begin=NOON):
        for at, level in enumerate(levels):
            past = remember([row(level)], begin + 60 * at, tmp_path / "state" / "health.db")
        return past.since

    return play


def test_what_is_bad_at_the_first_look_may_be_so_for_longer(look):
    assert look(Level.BAD, Level.BAD) == {KEY: Since(NOON, is_first_look=True, times=1)}


def test_what_turns_bad_is_so_since_then(look):
    assert look(Level.GOOD, Level.BAD, Level.BAD) == {KEY: Since(NOON + 60, times=1)}


def test_what_comes_and_goes_is_counted(look):
    flapping = [Level.GOOD, Level.BAD] * 4
    assert look(*flapping) == {KEY: Since(NOON + 7 * 60, times=4)}


def test_unknown_is_neither_good_nor_bad(look):
    seen = look(Level.GOOD, Level.BAD, Level.UNKNOWN, Level.BAD)
    assert seen == {KEY: Since(NOON + 60, times=1)}
    assert look(Level.UNKNOWN) == {}


def test_what_is_good_again_has_no_past_of_its_own(look):
    assert look(Level.BAD, Level.GOOD) == {}


def test_a_count_forgets_what_is_a_week_old(look):
    look(Level.GOOD, Level.BAD, Level.GOOD)
    later = NOON + 8 * DAY_S
    assert look(Level.BAD, begin=later) == {KEY: Since(later, times=1)}


def test_only_changes_are_kept_and_not_for_ever(look, tmp_path):
    look(*[Level.GOOD, Level.BAD] * 3, *[Level.BAD] * 20)
    look(Level.GOOD, begin=NOON + (KEPT_DAYS + 1) * DAY_S)
    with sqlite3.connect(tmp_path / "state" / "health.db") as kept:
        rows = kept.execute("SELECT node, name, item, is_bad FROM change").fetchall()
    kept.close()
    assert rows == [(*KEY, 0)]


def test_a_check_that_was_not_asked_before_has_its_own_first_look(tmp_path):
    other = next(check for check in CHECKS if check.id == "disk.space")
    file = tmp_path / "health.db"
    remember([NodeHealth(Node("n1"), (Finding(other, Level.GOOD, "/"),))], NOON, file)
    past = remember([row(Level.BAD)], NOON + 60, file)
    assert past.since == {KEY: Since(NOON + 60, is_first_look=True)}


def test_a_silenced_finding_has_a_past_and_a_lost_node_none(tmp_path):
    [bad] = row(Level.BAD).findings
    silenced = NodeHealth(Node("n1"), silenced=((bad, "RMA 4411"),))
    lost = NodeHealth(Node("n2"), fault=Fault(FaultKind.UNREACHABLE, "no route"))
    past = remember([silenced, lost], NOON, tmp_path / "health.db")
    assert past.since == {KEY: Since(NOON, is_first_look=True, times=1)}


@pytest.mark.parametrize("damage", ["a folder", "no database", "no home"])
def test_health_goes_on_where_nothing_can_be_kept(tmp_path, damage):
    file = tmp_path / "health.db"
    if damage == "a folder":
        file.mkdir()
    elif damage == "no database":
        file.write_text("no database " * 100)
    else:
        file = Path("~nobody-of-that-name/health.db")
    found = Health(NodeSource((), "one.txt"), (row(Level.BAD),), CHECKS)
    with_note = with_past(found, file)
    assert (with_note.past, with_note.rows) == (None, found.rows)
    [note] = with_note.notes
    assert note.startswith(f"the history of verdicts cannot be kept in {file}: ")
