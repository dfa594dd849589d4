import os
import subprocess
import sys
from pathlib import Path

import pytest

from soractl.remote.nodes import Node
from soractl.remote.ssh_command import SshOptions
from soractl.runs.record import AttemptRecord
from trainer.atomic_files import write_json
from trainer.run_dir import RunDir

TRAIN = """
import signal, sys, time
from trainer import rank_trace
what = sys.argv[2]
if what != "early":
    rank_trace.answer_signals(sys.argv[1])
print("ready", flush=True)
if what == "lock":
    import ctypes
    ctypes.PyDLL(None).sleep(60)
time.sleep(60)
"""


@pytest.fixture
def record(tmp_path):
    """A run of two ranks on this machine, of which none has started."""
    (tmp_path / "attempts").mkdir()
    attempt = RunDir(tmp_path).new_attempt()
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    write_json(attempt.plan, {"nodes": [{"name": "here", "environment": environment}]})
    node = Node("here", local=True)
    return AttemptRecord(str(tmp_path), (node,), (2,), SshOptions(), 0.0)


@pytest.fixture
def attempt(record):
    """Its attempt."""
    return RunDir(Path(record.run_id)).attempts()[-1]


@pytest.fixture
def start(tmp_path, record):
    """Start a rank that answers, that does so later, or never."""
    (tmp_path / "trainer").mkdir()
    program = tmp_path / "trainer/train.py"
    program.write_text(TRAIN)
    processes = []

    def go(rank, what, **environment):
        process = subprocess.Popen(
            [sys.executable, str(program), str(tmp_path), what],
            env={**os.environ, "SORACTL_RUN_ID": record.run_id, "RANK": str(rank), **environment},
            stdout=subprocess.PIPE,
        )
        processes.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield go
    for process in processes:
        process.kill()
        process.communicate()
