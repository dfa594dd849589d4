import pwd
from pathlib import Path

import pytest

from soractl.files.home import in_home


def test_a_path_below_a_home_is_replaced_and_any_other_stays(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ana")
    paths = [Path("~/.cache/soractl"), Path("/data"), Path("runs/~")]
    assert [in_home(path) for path in paths] == [
        Path("/home/ana/.cache/soractl"), Path("/data"), Path("runs/~"),
    ]  # fmt: skip


def test_without_a_home_nothing_can_be_written(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # KeyError: no such account
    path = in_home(Path("~/.cache/soractl"))
    assert path == Path("/dev/null/.cache/soractl")
    with pytest.raises(OSError, match="Not a directory"):
        path.mkdir(parents=True)
