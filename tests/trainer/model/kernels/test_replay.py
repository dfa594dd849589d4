import gc

import pytest
import torch

from trainer.model.kernels.replay import Replayed

pytestmark = pytest.mark.gpu


@pytest.fixture
def counted():
    """A function of one tensor that reads a weight, and how often it ran on the host."""
    weight, calls = torch.randn(8, 8, device="cuda"), []

    def function(x):
        calls.append(x.shape)
        return torch.tanh(x @ weight)

    return function, weight, calls


def test_a_shape_that_comes_again_is_replayed_with_the_same_bits(counted):
    function, weight, calls = counted
    replayed = Replayed(function, weight)
    for rows in (4, 4, 4, 5, 4, 5, 5):
        x = torch.randn(rows, 8, device="cuda")
        made = replayed(x)
        assert torch.equal(made, torch.tanh(x @ weight))
    assert [shape[0] for shape in calls] == [4, 4, 5, 5]  # once as it is, once to capture it


def test_functions_are_captured_after_all_graphs_before_them_are_gone(counted):
    function, weight, calls = counted
    x = torch.randn(4, 8, device="cuda")
    for _ in range(2):
        replayed = Replayed(function, weight)
        for _ in range(3):
            made = replayed(x)
        assert torch.equal(made, torch.tanh(x @ weight))
        del replayed
        gc.collect()
    assert len(calls) == 4
