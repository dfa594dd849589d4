import json

import pytest

from soractl.clips.journal import Journal
from soractl.errors import SoractlError

ENTRIES = [{"path": "a", "ok": True}, {"path": "b", "ok": False}]


@pytest.fixture
def file(tmp_path):
    with Journal(tmp_path / "log.jsonl") as journal:
        journal.add(ENTRIES)
    return tmp_path / "log.jsonl"


def test_entries_of_an_earlier_command_are_read_again(file):
    with Journal(file) as journal:
        assert journal.entries == {"a": ENTRIES[0], "b": ENTRIES[1]}


def test_half_a_last_line_is_dropped_and_written_over(file):
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"path": "c", "o')
    with Journal(file) as journal:
        assert list(journal.entries) == ["a", "b"]
        journal.add([{"path": "c", "ok": True}])
    assert file.read_bytes() == whole + b'{"path": "c", "ok": true}\n'


def test_the_last_entry_of_a_clip_counts(file):
    with Journal(file) as journal:
        journal.forget(lambda entry: not entry["ok"])
        assert list(journal.entries) == ["a"]
        journal.add([{"path": "b", "ok": True}])
    with Journal(file) as journal:
        assert journal.entries["b"] == {"path": "b", "ok": True}


def test_a_second_command_cannot_open_a_journal_that_is_open(file):
    with Journal(file), pytest.raises(SoractlError, match="another command is writing") as fault:
        Journal(file).__enter__()
    assert fault.value.exit_code == 5


def test_a_file_that_is_not_a_journal_is_refused_and_left_unchanged(file):
    file.write_text("a table\nof something\n")
    with pytest.raises(SoractlError, match="not a journal of clips: byte 0"):
        Journal(file).__enter__()
    file.write_text(f"{json.dumps([1])}\n")
    with pytest.raises(SoractlError, match="not a journal of clips"):
        Journal(file).__enter__()
    assert file.read_text() == "[1]\n"
