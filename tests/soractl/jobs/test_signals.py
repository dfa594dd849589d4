import os
import signal
import subprocess
import sys

import pytest

from soractl.jobs.signals import Relay, Signals, ask_rank_0
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node
from soractl.runs.record import node_as_json
from tests.waiting import wait_for
from trainer.atomic_files import write_json
from trainer.run_dir import create_run


@pytest.fixture
def signals():
    kept = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGINT)}
    kept[signal.SIGTERM] = signal.getsignal(signal.SIGTERM)
    yield Signals()
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def run(tmp_path):
    """A run whose head node is this machine."""
    run = create_run(tmp_path, "smoke")
    node = {**node_as_json(Node("localhost")), "ranks": 1}
    plan = {"run_id": str(run.path), "ssh": {}, "nodes": [node], "started_unix_s": 0.0}
    write_json(run.new_attempt().plan, plan)
    return run


@pytest.fixture
def rank_0(run):
    """A process that looks like rank 0 of the run, and ends at TERM."""
    environ = {**os.environ, "SORACTL_RUN_ID": str(run.path), "RANK": "0", "LOCAL_RANK": "0"}
    program = [sys.executable, "-c", "import time; time.sleep(60)", "train.py"]
    process = subprocess.Popen(program, env=environ)
    yield process
    process.kill()
    process.wait()


def test_a_warning_and_a_kill_want_a_save_and_term_does_not(signals):
    os.kill(os.getpid(), signal.SIGTERM)
    assert (signals.wants_a_save, signals.terminated_at is None) == (False, False)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signals.wants_a_save


def test_rank_0_is_asked_once_it_is_there(signals, rank_0, run):
    with Connections() as remote, Relay(run, "localhost", signals, remote) as relay:
        assert not relay.is_asked
        signals.seen.add(signal.SIGUSR1)
        wait_for(lambda: relay.is_asked)
        assert rank_0.wait(10) == -signal.SIGTERM


def test_without_a_rank_0_nobody_is_asked(run):
    with Connections() as remote:
        assert ask_rank_0(run, "localhost", remote) is False
