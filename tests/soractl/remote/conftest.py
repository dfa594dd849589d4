import os

import pytest

from tests.missing import give_up
from tests.soractl.conftest import Cluster


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Nodes n1 to n3; the home of the head's account is `lab.folder / "home"`."""
    if os.getuid() != 0:
        give_up("only root may make namespaces")
    cluster = Cluster(tmp_path_factory.mktemp("matrix") / "cluster", 3)
    cluster.do("up", "3")
    yield cluster
    cluster.do("down")
