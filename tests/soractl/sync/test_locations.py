import os
import subprocess
from pathlib import Path

import pytest

from soractl.remote.nodes import Node
from soractl.sync.locations import Location, parse_location, under_lock
from tests.soractl.sync.test_plan import HERE


@pytest.mark.parametrize(
    ("words", "node", "folder"),
    [
        ("node-1:/data/runs", Node("node-1"), "/data/runs"),
        ("me@node-1:2222:runs", Node("node-1", user="me", port=2222), "runs"),
        ("node-1:~/a b", Node("node-1"), "a b"),
        ("node-1:", Node("node-1"), "."),
        ("localhost:/data", HERE, "/data"),
        ("/a/b:c", HERE, "/a/b:c"),
        ("./b:c", HERE, "{cwd}/b:c"),
        ("backup", HERE, "{cwd}/backup"),
    ],
)
def test_a_place_is_written_as_rsync_writes_it(words, node, folder):
    assert parse_location(words, HERE) == Location(node, Path(folder.format(cwd=Path.cwd())))


@pytest.mark.parametrize(
    ("flock", "code"),
    [
        ("echo 'flock: 9: Function not implemented' >&2; exit 65", 0),  # Lustre without -o flock
        ("exit 127", 0),  # no such program
        ("exit 75", 75),
    ],
)
def test_a_node_without_locks_goes_on_and_one_whose_lock_is_held_does_not(tmp_path, flock, code):
    (tmp_path / "flock").write_text(f"#!/bin/sh\n{flock}\n")
    (tmp_path / "flock").chmod(0o755)
    done = subprocess.run(
        [*under_lock(tmp_path / "a.lock"), "echo", "works"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "" if code else "works\n", "")
