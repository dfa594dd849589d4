import pytest

from soractl.health.facts import parse
from tests.soractl.health import planted


@pytest.fixture(scope="session")
def answer(tmp_path_factory):
    """The probe's answer on a good node."""
    return planted.probe(planted.plant(tmp_path_factory.mktemp("node")))


@pytest.fixture
def node(answer):
    """Facts of a good node."""
    return parse(answer)
