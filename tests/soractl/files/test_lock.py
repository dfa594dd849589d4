import fcntl
import threading
import time

import pytest

from soractl.errors import ExitCode, SoractlError
from soractl.files.lock import acquire, locked


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.lock"


def test_a_held_lock_is_refused_with_the_given_words(file):
    with (
        locked(file, "somebody works here"),
        pytest.raises(SoractlError) as refused,
        locked(file, "somebody works here"),
    ):
        pass
    assert (refused.value.message, refused.value.exit_code) == (
        "somebody works here",
        ExitCode.REFUSED,
    )


def test_a_lock_is_free_again_when_it_was_left(file):
    for _ in range(2):
        with locked(file, "held") as descriptor:
            assert descriptor > 2


def test_a_lock_is_waited_for(file):
    with file.open("a") as holder:
        acquire(holder, "held")
        timer = threading.Timer(0.3, fcntl.flock, (holder, fcntl.LOCK_UN))
        timer.start()
        began = time.monotonic()
        with locked(file, "held", wait_s=60):
            assert time.monotonic() - began >= 0.2
        timer.join()


def test_what_a_file_holds_stays_when_it_is_locked(file):
    file.write_text("a line\n")
    with locked(file, "held"):
        assert file.read_text() == "a line\n"


def test_a_file_system_without_locks_grants_them(file, monkeypatch):
    def without(stream, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", without)  # no such file system can be mounted here
    with locked(file, "held"), locked(file, "held"):
        pass
