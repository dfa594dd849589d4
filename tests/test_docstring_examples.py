"""Examples in docstrings show what the code does."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEFT_OUT = {
    "soractl.evaluation.evaluate": "its example samples checkpoints",
    "soractl.evaluation.samplers": "its example loads the networks",
}
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "soractl").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", [name for name in MODULES if name not in LEFT_OUT])
def test_examples_show_what_the_code_does(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


def test_only_modules_with_examples_are_left_out():
    assert set(MODULES) >= set(LEFT_OUT)
