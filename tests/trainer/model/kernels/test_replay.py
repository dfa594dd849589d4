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


def test_what_was_made_before_is_not_written_over_by_a_later_call(counted):
    function, weight, _ = counted
    replayed = Replayed(function, weight)
    inputs = [torch.randn(4, 8, device="cuda") for _ in range(4)]
    made = [replayed(x) for x in inputs]
    assert all(map(torch.equal, made, (torch.tanh(x @ weight) for x in inputs)))


def test_another_place_of_the_weight_asks_for_another_graph():
    module = torch.nn.Linear(8, 8, bias=False, device="cuda")
    replayed = Replayed(module, module.weight)
    x = torch.randn(4, 8, device="cuda")
    for _ in range(3):
        replayed(x)
    module.weight.data = module.weight.data + 1
    with torch.no_grad():
        assert all(torch.equal(replayed(x), module(x)) for _ in range(3))


def test_no_result_has_a_gradient(counted):
    function, weight, _ = counted
    replayed = Replayed(function, weight)
    x = torch.randn(4, 8, device="cuda", requires_grad=True)
    assert [replayed(x).requires_grad for _ in range(3)] == [False] * 3
