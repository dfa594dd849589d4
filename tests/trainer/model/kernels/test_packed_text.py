import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.gpu
LENGTHS = (1, 64, 65, 200, 130)
HEADS, WIDTH, LONGEST = 3, 40, 200


@pytest.fixture
def packed_text():
    from trainer.model.kernels import packed_text  # needs Triton

    return packed_text


def draw(*shape):
    return torch.randn(shape, device="cuda")


def off(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


def test_the_norm_is_that_of_the_sum_which_takes_the_place_of_the_first(packed_text):
    x, y, weight = draw(70, 300), draw(70, 300), draw(300)
    total = x.double() + y.double()
    found = packed_text.add_and_normalise(x, y, weight, 1e-6)
    inverse = (total.square().mean(1, keepdim=True) + 1e-6).rsqrt()
    assert off(x, total) < 1e-6
    assert off(found, total * inverse * weight) < 1e-5
    assert torch.equal(packed_text.add_and_normalise(x, None, weight, 1e-6), found)


def test_a_gated_gelu_equals_the_plain_one_in_double_precision(packed_text):
    gate, x = draw(70, 300), draw(70, 300)
    expected = F.gelu(gate.double(), approximate="tanh") * x.double()
    assert off(packed_text.gated_gelu(gate, x), expected) < 1e-5


def test_each_caption_attends_to_itself_alone_and_rows_of_none_are_zero(packed_text):
    rows = sum(LENGTHS) + 9
    q, k, v = (draw(rows, HEADS, WIDTH) for _ in range(3))
    bias = draw(HEADS, 2 * LONGEST - 1)
    lengths = torch.tensor(LENGTHS, dtype=torch.int32, device="cuda")
    starts = lengths.cumsum(0, dtype=torch.int32) - lengths
    found = packed_text.attend_within(q, k, v, bias, starts, lengths)
    for start, length in zip(starts.tolist(), LENGTHS, strict=True):
        own = slice(start, start + length)
        place = torch.arange(length, device="cuda")
        added = bias[:, place[None, :] - place[:, None] + LONGEST - 1].double()
        heads = (part[own].transpose(0, 1).double() for part in (q, k, v))
        plain = F.scaled_dot_product_attention(*heads, attn_mask=added, scale=1.0)
        assert off(found[own], plain.transpose(0, 1)) < 1e-4
    assert not found[sum(LENGTHS) :].any()
