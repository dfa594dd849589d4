import time

import pytest

from soractl.supervise.quarantine import Book, Strike, add_strike, lift, read_book, set_apart
from trainer import atomic_files

NOW = time.time()
STRIKE = Strike("n2", NOW, "001-smoke", 1, "lost")


def test_without_a_file_nobody_is_set_apart(tmp_path):
    assert read_book(tmp_path) == Book()


def test_an_attempt_strikes_a_node_once(tmp_path):
    add_strike(tmp_path, STRIKE)
    add_strike(tmp_path, STRIKE)
    book = add_strike(tmp_path, Strike("n2", NOW, "001-smoke", 2, "lost"))
    assert book.strikes_of() == {"n2": 2}
    assert read_book(tmp_path) == book


def test_strikes_and_quarantine_end_after_a_day(tmp_path):
    add_strike(tmp_path, STRIKE)
    set_apart(tmp_path, {"n2": "two strikes"}, "attempts/2/evidence")
    [node] = read_book(tmp_path).nodes.values()
    assert (node.node, node.reason, node.evidence) == ("n2", "two strikes", "attempts/2/evidence")
    assert read_book(tmp_path, NOW + 90_000) == Book()


@pytest.mark.parametrize("ahead_s", [-200_000, 200_000])
def test_a_quarantine_is_as_long_on_a_machine_whose_clock_is_off(tmp_path, monkeypatch, ahead_s):
    add_strike(tmp_path, STRIKE)
    set_apart(tmp_path, {"n2": "two strikes"}, None)
    monkeypatch.setattr(atomic_files.time, "time", lambda: NOW + ahead_s)
    assert (read_book(tmp_path).strikes, list(read_book(tmp_path).nodes)) == ((STRIKE,), ["n2"])
    set_apart(tmp_path, {"n3": "two strikes"}, None)
    assert abs(read_book(tmp_path).nodes["n3"].since_unix_s - NOW) < 100_000


def test_a_lifted_node_begins_without_strikes(tmp_path):
    add_strike(tmp_path, STRIKE)
    set_apart(tmp_path, {"n2": "two strikes", "n3": "two strikes"}, None)
    assert lift(tmp_path, "n2")
    assert not lift(tmp_path, "n2")
    assert (read_book(tmp_path).strikes, list(read_book(tmp_path).nodes)) == ((), ["n3"])
