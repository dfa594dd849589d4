"""Few kills; `python -m tests.kills.eval_kills` and `upload_kills` take as many as one likes."""

import subprocess
import sys

import pytest


@pytest.mark.slow  # a minute
@pytest.mark.parametrize(
    ("program", "kills"), [("tests.kills.eval_kills", 15), ("tests.kills.upload_kills", 4)]
)
def test_killed_at_any_moment_nothing_is_twice_missing_or_half(program, kills):
    # a process of its own: it forks, and pytest has threads by then
    done = subprocess.run(
        [sys.executable, "-m", program, "--kills", str(kills), "--seed", "3"],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills" in done.stdout
