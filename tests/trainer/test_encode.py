import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainer.data.test_encoding import (
    BAD_ROW,
    encoded,
    job,  # noqa: F401 - a fixture
    table,  # noqa: F401 - a fixture, of `job`
    values_of,
)
from trainer.data import encoding
from trainer.settings import ConfigError


def start(work):
    program = subprocess.Popen(
        [sys.executable, "-m", "trainer.encode", "work", "--ranks", "2", "--world-size", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # more than the cores would wait for each other
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    json.dump(values_of(work), program.stdin, default=list)
    program.stdin.close()
    return program


def children_of(pid):
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow  # twice three interpreters with torch
def test_killed_in_the_middle_it_goes_on_and_encodes_each_clip_once(job):  # noqa: F811 - the fixture
    job = replace(job, clips_per_shard=1, variants=1)
    first = start(job)
    while len(list(job.folder.glob("*/v*"))) < 3:
        assert first.poll() is None
        time.sleep(0.01)
    ranks = children_of(first.pid)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    while any(is_alive(pid) for pid in ranks):  # they end with the one that started them
        time.sleep(0.02)
    before = {file: file.stat().st_ino for file in job.folder.glob("*/v*")}
    assert len(before) < 7 + 7
    with pytest.raises(ConfigError, match="shards are missing"):
        encoding.finish(job)
    assert start(job).wait() == 0
    parts = encoding.finish(job)["parts"]
    after = {file: file.stat().st_ino for file in job.folder.glob("*/v*")}
    assert before.items() <= after.items()
    text, video = (encoded(part) for part in parts)
    assert sorted(text) == [(0, row) for row in range(7)]
    assert sorted(video) == [(0, row) for row in range(7) if row != BAD_ROW]
