"""Runs of another user: unknown is never absent. Real processes, asked for as `nobody`."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from soractl.errors import SoractlError
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult
from soractl.remote.ssh_command import SshOptions
from soractl.runs.kill import KillOptions, targets
from soractl.runs.node_states import ask_states
from soractl.runs.record import AttemptRecord
from soractl.runs.start_lock import is_starting, start_lock
from trainer.run_dir import create_run

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@pytest.fixture
def run():
    """A run of root that everybody may read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        run = create_run(Path(folder), "smoke")
        run.new_attempt()
        run.run_json.write_text("{}")
        run.lock.touch(mode=0o600)
        yield run


@pytest.fixture
def as_nobody(run):
    """This process as another user, while the test runs."""
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


def ask_as_nobody(node, request, deadline_s):
    as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    done = subprocess.run(
        [*as_nobody, *request.argv], input=request.stdin, capture_output=True, text=True
    )
    return NodeResult(node, done.stdout, done.stderr, done.returncode)


def test_processes_that_cannot_be_seen_are_unknown_and_have_an_owner(run):
    [attempt] = run.attempts()
    record = AttemptRecord(str(run.path), (Node("n1"),), (1,), SshOptions(), 0.0)
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={**os.environ, "SORACTL_RUN_ID": str(run.path)},
    ) as process:
        [state] = ask_states(attempt, record, ask_as_nobody)
        process.kill()
    assert (state.owner, state.processes, state.vanished) == ("root", None, False)


def test_another_users_run_is_not_stopped_and_that_is_said(run, as_nobody):
    with pytest.raises(SoractlError, match="belongs to root, whose processes") as no:
        targets(run.path.parent, KillOptions(run="1"), {})
    assert no.value.exit_code == 5


def test_another_users_run_is_not_resumed_and_its_lock_is_left_alone(run, as_nobody):
    assert not is_starting(run)
    with pytest.raises(SoractlError, match="001-smoke belongs to root") as no, start_lock(run):
        pass
    assert no.value.exit_code == 5
