import pytest


@pytest.mark.gpu  # torch brings Triton for GPUs alone
@pytest.mark.parametrize(
    ("width", "parts"), [(72, (64, 16)), (96, (64, 32)), (80, (64, 16)), (100, (64, 64))]
)
def test_the_channels_of_a_head_are_two_powers_of_two(width, parts):
    from trainer.model.kernels.split_heads import split

    assert tuple(split(width).values()) == parts
