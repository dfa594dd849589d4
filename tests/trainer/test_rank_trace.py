import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.end_to_end import conftest
from tests.end_to_end.forked import Trainer
from trainer import rank_process, rank_trace
from trainer.atomic_files import read_json
from trainer.run_dir import FULL_TRACE_SIGNAL, SHORT_TRACE_SIGNAL, AttemptDir

clips_csv = conftest.clips_csv
PROGRAM = """
import os, sys, time
from trainer import rank_trace
rank_trace.answer_signals(sys.argv[1])
def busy():
    print("ready", flush=True)
    while True:
        pass
def asleep():
    print("ready", flush=True)
    time.sleep(60)
def lock_held_in_c():
    import ctypes
    print("ready", flush=True)
    ctypes.PyDLL(None).usleep(1_500_000)
    time.sleep(60)
globals()[sys.argv[2]]()
"""


@pytest.fixture
def start(tmp_path):
    """Start PROGRAM with a main thread that does something; its attempt's folder."""
    processes = []

    def go(what):
        (tmp_path / "attempts/1").mkdir(parents=True)
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path), what],
            env={**os.environ, "RANK": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        processes.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process, AttemptDir(tmp_path / "attempts/1")

    yield go
    for process in processes:
        process.kill()
        process.communicate()


def answer(pid, attempt, rank, number):
    """The trace that a rank writes at a signal."""
    path = attempt.rank_trace(rank, full=number == FULL_TRACE_SIGNAL)
    path.unlink(missing_ok=True)
    os.kill(pid, number)
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"rank {rank} gave no answer"
        time.sleep(0.01)
    return read_json(path)


@pytest.mark.parametrize("what", ["busy", "asleep", "lock_held_in_c"])
def test_a_rank_answers_whatever_its_main_thread_does_as_soon_as_python_runs(start, what):
    process, attempt = start(what)
    found = answer(process.pid, attempt, 3, SHORT_TRACE_SIGNAL)
    assert (found["rank"], found["pid"]) == (3, process.pid)
    assert (found["recorders"], found["groups"]) == ({}, [])  # torch is not loaded
    [stack] = found["stacks"]
    assert stack["thread"] == found["main_thread"]
    assert what in [function for _, _, function in stack["frames"]]
    full = answer(process.pid, attempt, 3, FULL_TRACE_SIGNAL)
    assert {stack["name"] for stack in full["stacks"]} == {"MainThread", "trace"}


def test_a_trace_that_cannot_be_written_ends_no_answers(start):
    process, attempt = start("asleep")
    blocked = attempt.rank_trace(3).parent
    blocked.write_text("no folder")
    os.kill(process.pid, SHORT_TRACE_SIGNAL)
    assert b"rank 3: its trace could not be written" in process.stderr.readline()
    blocked.unlink()
    assert answer(process.pid, attempt, 3, SHORT_TRACE_SIGNAL)["rank"] == 3


def traced(run_path):
    rank_trace.answer_signals(run_path)
    rank_process.main(run_path)


@pytest.mark.slow  # a start of two ranks
def test_every_group_of_a_running_job_has_its_limit_and_its_name(tmp_path, clips_csv):
    trainer = Trainer(tmp_path, clips_csv, "checkpoint.every_steps=1", program=traced)
    attempt = trainer.launch("trainer.collective_timeout_s=77.0")
    attempt.wait_for(attempt.run.checkpoints)
    full = [answer(attempt.pids[r], attempt.dir, r, FULL_TRACE_SIGNAL) for r in range(2)]
    short = answer(attempt.pids[0], attempt.dir, 0, SHORT_TRACE_SIGNAL)
    expected = {"default_pg": 77.0, "node": 1800.0, "save": 1800.0, "consensus": 77.0}
    for found in full:
        assert [(g["description"], g["ranks"]) for g in found["groups"]] == [
            (description, [0, 1]) for description in expected
        ]
        entries = found["recorders"]["host"]["entries"]
        limits = {e["process_group"][1]: e["timeout_ms"] / 1000 for e in entries}
        assert limits == expected
    status = short["recorders"]["host"]["pg_status"]
    assert status.keys() == {"0", "1", "2", "3"}
    assert len(json.dumps(short)) < 10_000
    for pid in attempt.pids:
        os.kill(pid, signal.SIGTERM)
    assert attempt.end() == [143, 143]
