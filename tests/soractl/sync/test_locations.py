from pathlib import Path

import pytest

from soractl.remote.nodes import Node
from soractl.sync.locations import Location, parse_location
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
