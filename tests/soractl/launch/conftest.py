import pytest

from soractl.remote import nodes


@pytest.fixture
def two_nodes(workplace, monkeypatch):
    """A workplace with two nodes, n1 and n2, both of them this machine."""
    monkeypatch.setattr(nodes, "_own_names", lambda: {"n1", "n2"})
    workplace.write("hostfiles/two.txt", "n1 slots=2\nn2 slots=2\n")
    workplace.write("hostfiles/two.toml", f'environment = "{workplace.bin}"\n')
    return workplace
