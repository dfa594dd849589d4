from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden():
    """Numbers that a correct implementation reproduces."""
    return Path(__file__).parent.parent / "golden"
