from soractl.estimate.rates import NETWORKS
from trainer.model.stdit3 import SIZES


def test_networks_are_the_trainers():
    found = {name: (one.width, one.depth) for name, one in NETWORKS.items()}
    assert found == {name: (size["hidden_size"], size["depth"]) for name, size in SIZES.items()}
