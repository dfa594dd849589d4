import threading

import pytest

from soractl.errors import SoractlError
from soractl.runs.start_lock import is_starting, start_lock
from trainer.run_dir import create_run


def test_another_users_run_is_not_resumed_and_its_lock_is_left_alone(roots_run, as_nobody):
    assert not is_starting(roots_run)
    with (
        pytest.raises(SoractlError, match="001-smoke belongs to root") as no,
        start_lock(roots_run),
    ):
        pass
    assert no.value.exit_code == 5


def test_a_run_is_starting_while_a_command_holds_its_lock(tmp_path):
    run = create_run(tmp_path, "smoke")
    assert not is_starting(run)
    with start_lock(run):
        assert is_starting(run)
        with pytest.raises(SoractlError, match="is being started by another command") as no:
            start_lock(run).__enter__()
    assert not is_starting(run)
    assert no.value.exit_code == 5


def test_readers_never_disturb_who_starts(tmp_path):
    run, end = create_run(tmp_path, "smoke"), threading.Event()

    def read():
        while not end.is_set():
            is_starting(run)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(300):
            with start_lock(run):
                pass
    finally:
        end.set()
        for reader in readers:
            reader.join()
