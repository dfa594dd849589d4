"""What looks like a failure and is none: a supervisor does nothing about it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import libfaketime
import pytest

from soractl.runs.events import read_events
from soractl.supervise.lease import read_holder
from tests.waiting import wait_for
from trainer.run_dir import RunDir

FAKETIME = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"
ACTIONS = {"suspect", "hung", "crashed", "lost", "killed", "restarted", "gave up", "quarantined"}
TRAIN = """
    for step in range(1, {steps} + 1):
        train(step, {steps}); time.sleep(0.5)
        if step % 10 == 0: save(step)
"""


@pytest.fixture
def supervised(workplace):
    """Launch ranks that train in half-second steps, and start a supervisor's process."""

    def launch(seconds, environ=()):
        workplace.ranks(TRAIN.format(steps=2 * seconds))
        workplace.soractl("launch", "smoke", "--detach")
        printed = workplace.soractl("supervise", "--json", environ=environ).stdout
        return RunDir(workplace.folder / "runs" / "001-smoke"), json.loads(printed)["pid"]

    return launch


def ahead_s(environ):
    """Seconds that the clock of a process with these variables is ahead."""
    code = "import time; print(time.time())"
    printed = subprocess.check_output([sys.executable, "-c", code], env={**os.environ, **environ})
    return float(printed) - time.time()


def kinds(run):
    return {event.kind for event in read_events(run)}


def ends_well(run):
    wait_for(lambda: read_holder(run.supervisor).ended)
    assert read_holder(run.supervisor).state == "finished"
    assert not ACTIONS & kinds(run)
    assert len(run.attempts()) == 1


@pytest.mark.slow  # ninety seconds
def test_a_supervisor_that_was_paused_for_ninety_seconds_does_nothing(supervised):
    run, pid = supervised(110)
    wait_for(run.heartbeat.exists)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(90)
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: "blind" in kinds(run))
    ends_well(run)


@pytest.mark.slow  # twenty seconds of training
def test_a_wall_clock_that_steps_by_five_minutes_changes_nothing(supervised, tmp_path):
    clock = tmp_path / "clock"
    clock.write_text("+0s")
    environ = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    run, pid = supervised(25, environ)
    wait_for(run.heartbeat.exists)
    assert FAKETIME.name in Path(f"/proc/{pid}/maps").read_text()
    for offset in (300, -300, 0):
        clock.write_text(f"{offset:+}s")
        assert abs(ahead_s(environ) - offset) < 100  # so it is for the supervisor
        time.sleep(5)
    ends_well(run)
    times = [event.time_unix_s for event in read_events(run)]
    assert max(abs(at - time.time()) for at in times) < 200  # of the folder, not its own
