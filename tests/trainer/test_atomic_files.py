import errno
import os
import threading
from pathlib import Path

import pytest

from trainer import atomic_files
from trainer.atomic_files import (
    FolderClock,
    KeptRoom,
    append_jsonl,
    folder_time,
    read_json,
    write_json,
)

HOUR_S = 3600.0


def dated(folder):
    """When a file that is written now is dated."""
    (folder / "now").touch()
    return (folder / "now").stat().st_mtime


def test_the_time_of_a_folder_is_that_of_its_files_whatever_this_machines_clock(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(atomic_files.time, "time", lambda: dated(tmp_path) + HOUR_S)
    clock = FolderClock(tmp_path)
    for now in (folder_time(tmp_path), clock()):
        assert abs(now - dated(tmp_path)) < HOUR_S / 2
    nowhere = tmp_path / "nowhere"
    assert abs(folder_time(nowhere) - dated(tmp_path) - HOUR_S) < HOUR_S / 2


def test_a_clock_of_a_folder_goes_on_while_the_time_of_day_is_put_right(tmp_path, monkeypatch):
    clock = FolderClock(tmp_path)
    before = clock()
    monkeypatch.setattr(atomic_files.time, "time", lambda: before - HOUR_S)
    assert 0 <= clock() - before < HOUR_S / 2


def test_json_is_replaced_whole_and_leaves_no_draft(tmp_path):
    path, failures, done = tmp_path / "x.json", [], threading.Event()
    write_json(path, {"text": ""})

    def watch():
        while not done.is_set():
            values = read_json(path)
            if len(values["text"]) % 1000:
                failures.append(values)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for count in range(200):
        write_json(path, {"text": "x" * 1000 * count}, durable=False)
    done.set()
    watcher.join()
    assert failures == []
    assert [child.name for child in tmp_path.iterdir()] == ["x.json"]


def test_json_that_is_no_object_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"x\.json is damaged, it holds no JSON object"):
        read_json(path)


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO])
def test_a_file_that_fails_for_a_moment_is_read_again(tmp_path, monkeypatch, code):
    file = tmp_path / "a.json"
    file.write_text('{"a": 1}')
    errors = [OSError(code, os.strerror(code))] * 2
    read_bytes = Path.read_bytes

    def failing_at_first(self):
        if errors:
            raise errors.pop()
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", failing_at_first)  # no such file system is here
    assert read_json(file) == {"a": 1}


def test_room_that_was_kept_takes_a_file_on_a_full_disk(small_disk):
    disk = small_disk("64k")
    path, other = disk / "note.json", disk / "other.json"
    with KeptRoom(path) as note, KeptRoom(other):
        with pytest.raises(OSError, match="No space left"):
            (disk / "filler").write_bytes(bytes(2**16))
        note.write_json({"signal": "SIGTERM"})
    assert read_json(path) == {"signal": "SIGTERM"}
    assert {file.name for file in disk.iterdir()} == {"note.json", "filler"}


def test_a_file_larger_than_the_room_that_was_kept_is_written_where_there_is_more(tmp_path):
    with KeptRoom(tmp_path / "a.json", size_bytes=10) as room:
        room.write_json({"text": "x" * 100})
    assert read_json(tmp_path / "a.json") == {"text": "x" * 100}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_rows_begin_a_line_of_their_own_behind_half_a_line(tmp_path):
    path = tmp_path / "x.jsonl"
    append_jsonl(path, [{"a": 1}])
    with path.open("a") as file:
        file.write('{"a": ')
    append_jsonl(path, [{"a": 3}, {"a": 4}])
    assert path.read_text() == '{"a": 1}\n{"a": \n{"a": 3}\n{"a": 4}\n'
