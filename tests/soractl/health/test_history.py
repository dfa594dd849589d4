import os
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from soractl.cli import app
from soractl.errors import Fault, FaultKind
from soractl.health import history
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


def test_a_clock_that_steps_back_puts_no_change_before_the_one_it_follows(look):
    look(Level.GOOD, Level.BAD)
    assert look(Level.GOOD, Level.GOOD, Level.GOOD, begin=NOON - 3600) == {}
    assert look(Level.BAD, begin=NOON - 3000) == {KEY: Since(NOON + 62, times=2)}


def test_a_look_waits_until_another_has_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "BUSY_S", 0.0)
    file = tmp_path / "health.db"

    class Rows(tuple):
        def __iter__(self):
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                remember([row(Level.BAD)], NOON, file)
            return super().__iter__()

    past = remember(Rows([row(Level.BAD)]), NOON + 1, file)
    assert past.since == {KEY: Since(NOON + 1, is_first_look=True)}


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
    folder, name = tmp_path, f"health-{os.uname().nodename}.db"
    file = folder / name
    if damage == "a folder":
        file.mkdir()
    elif damage == "no database":
        file.write_text("no database " * 100)
    else:
        folder = Path("~nobody-of-that-name")
    found = Health(NodeSource((), "one.txt"), (row(Level.BAD),), CHECKS)
    with_note = with_past(found, folder)
    assert (with_note.past, with_note.rows) == (None, found.rows)
    [note] = with_note.notes
    assert note.startswith(f"the history of verdicts cannot be kept in {folder / name}: ")


def test_health_keeps_its_history_in_the_home_in_a_file_of_this_machine(workplace, monkeypatch):
    monkeypatch.setenv("HOME", str(workplace.folder / "home"))
    hosts = workplace.write("hostfiles/here.txt", f"{os.uname().nodename}\n")
    done = CliRunner().invoke(app, ["health", str(hosts), "--only", "disk", "--timeout", "60"])
    assert done.exit_code in (0, 1), done.output  # 1: a disk of this machine is full
    file = workplace.folder / f"home/.local/state/soractl/health-{os.uname().nodename}.db"
    with sqlite3.connect(file) as kept:
        nodes = kept.execute("SELECT DISTINCT node FROM first").fetchall()
    kept.close()
    assert nodes == [(os.uname().nodename,)]
