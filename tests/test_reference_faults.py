import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
ROW = re.compile(r"\| (\d+) \| (.+?) \| (.+?) \| `([^`:]+)(?:::([\w.]+))?` \|")
PAGE = (REPOSITORY / "docs/reference-faults.md").read_text()
ROWS = [ROW.fullmatch(line) for line in PAGE.splitlines() if re.match(r"\| \d", line)]
WORDS = {"fixed", "not applicable", "kept on purpose", "open"}


def names(tree, prefix=""):
    """Functions and classes of a module, and what stands in them, as `Class.method`."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield prefix + node.name
            yield from names(node, f"{prefix}{node.name}.")


def test_every_fault_stands_once_in_order_with_a_word():
    assert all(ROWS)
    assert [int(row[1]) for row in ROWS] == list(range(1, 88))
    assert {row[3] for row in ROWS} <= WORDS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_what_shows_it_exists(row):
    path, name = REPOSITORY / row[4], row[5]
    assert path.is_file()
    if name:
        assert name in names(ast.parse(path.read_text()))
    if row[4].startswith("tests/"):
        assert name.startswith("test_")
