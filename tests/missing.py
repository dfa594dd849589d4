"""Parts of the machine that a test needs, and that may be missing."""

import os
from typing import NoReturn

import pytest


def give_up(reason: str) -> NoReturn:
    """End the test: in CI, where every part is wanted, it has failed; elsewhere it is skipped."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
