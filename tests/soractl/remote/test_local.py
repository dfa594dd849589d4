import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from soractl.remote.connections import Connections
from soractl.remote.local import Processes, stream
from soractl.remote.requests import Request
from tests.soractl.remote.living import assert_none_sleep
from tests.soractl.remote.test_connections import HERE
from tests.waiting import wait_for


def test_a_missing_program_is_127_on_the_local_node_too():
    with Connections() as remote:
        result = remote(HERE, Request(("no-such-program",)), 5)
    assert (result.exit_code, result.stderr) == (
        127,
        "no-such-program: No such file or directory\n",
    )


def test_a_local_command_that_hangs_ends_with_its_children():
    with Connections() as remote:
        result = remote(HERE, Request(("sh", "-c", "echo begun; sleep 4711 & sleep 4712")), 1)
    assert (result.stdout, str(result.fault)) == ("begun\n", "deadline: no end within 1 s")
    assert result.elapsed_s < 5
    assert_none_sleep("4711", "4712")


def test_a_local_command_that_is_killed_has_the_code_a_shell_would_give():
    with Connections() as remote:
        assert remote(HERE, Request(("sh", "-c", "kill -9 $$")), 5).exit_code == 137


def ended_children():
    lists = Path("/proc/self/task").glob("*/children")
    stats = {pid: Path(f"/proc/{pid}/stat") for file in lists for pid in file.read_text().split()}
    return {pid for pid, stat in stats.items() if stat.read_text().rpartition(")")[2][1] == "Z"}


def test_of_programs_that_end_one_after_another_no_zombies_are_left():
    before = ended_children()
    with contextlib.closing(Processes()) as processes:
        for _ in range(3):
            with processes.start_channel(("true",)) as channel:
                assert channel.recv(1) == b""
                [last] = wait_for(lambda: ended_children() - before)
    assert ended_children() - before == set()
    assert not Path(f"/proc/{last}").exists()


@pytest.mark.parametrize("stays", ["exec sleep 4713", "trap '' TERM; sleep 4713"])
def test_a_program_that_a_late_thread_starts_ends_at_once(stays):
    processes = Processes()
    processes.close()
    with processes.start_channel(("sh", "-c", stays)):
        assert_none_sleep("4713")


def test_a_stream_comes_in_pieces_and_ends_with_the_programs_code(tmp_path):
    pieces = []

    def take(piece):
        pieces.append(piece)
        (tmp_path / "taken").touch()

    wait = f"until [ -e {tmp_path}/taken ]; do sleep 0.01; done"
    done = stream(["sh", "-c", f"echo one; {wait}; echo two; echo wrong >&2; exit 3"], take)
    assert (pieces, done.stderr.text, done.exit_code) == ([b"one\n", b"two\n"], "wrong\n", 3)
    assert stream(["no-such-program"], pieces.append).exit_code == 127


def test_a_stream_that_is_left_may_put_away_its_work(tmp_path):
    class Enough(Exception):
        pass

    def enough(piece):
        raise Enough

    script = f"trap 'sleep 0.3; touch {tmp_path}/put-away; exit' TERM; echo; sleep 4713 & wait"
    with pytest.raises(Enough):
        stream(["sh", "-c", script], enough)
    assert (tmp_path / "put-away").exists()
    assert_none_sleep("4713")


def test_a_stream_ends_with_a_process_that_is_killed():
    program = """
from soractl.remote.local import Processes, stream
stream(["sh", "-c", "echo; exec sleep 4714"], lambda piece: print("begun", flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.kill()
    assert_none_sleep("4714")
