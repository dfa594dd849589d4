import errno
import threading
from pathlib import Path

import pytest

from trainer.atomic_files import read_json, write_json


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


def test_a_file_that_was_replaced_on_its_server_is_opened_again(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    file.write_text('{"a": 1}')
    errors = [OSError(errno.ESTALE, "Stale file handle")]
    read_text = Path.read_text

    def stale_once(self, *arguments, **options):
        if errors:
            raise errors.pop()
        return read_text(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", stale_once)  # no such file system can be mounted here
    assert read_json(file) == {"a": 1}
