import pytest
import torch

from tests.trainer.model.test_stdit3 import random_inputs, smoke_model


@pytest.mark.parametrize("mode", ["some", 0, -1])
def test_an_unknown_way_to_recompute_is_refused(mode):
    with pytest.raises(ValueError, match="expected none, every_block or n >= 1"):
        smoke_model().set_grad_checkpoint(mode)


@pytest.mark.parametrize(
    ("mode", "tokens_at_once", "again"),
    [
        ("every_block", 0, [0, 1, 2, 3]),
        ("none", 0, []),
        (3, 0, [0, 3]),
        ("every_block", 71, [0, 1, 2, 3]),
        ("every_block", 72, [0, 1, 2]),  # a block is kept, and the inputs of four
        ("every_block", 239, [0]),
        ("every_block", 240, []),
        (2, 72, [0, 2]),
    ],
)
def test_blocks_are_kept_as_far_as_tokens_at_once_reaches(mode, tokens_at_once, again):
    model = smoke_model()
    model.set_grad_checkpoint(mode, tokens_at_once)
    ran = []
    for number, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    out = model(**random_inputs(shape=(2, 4, 6, 8, 10)))  # 2 x 6 x 4 x 5 = 240 tokens
    assert ran == [0, 1, 2, 3]
    out.mean().backward()
    assert sorted(ran[4:]) == again


@pytest.mark.parametrize(
    ("tokens_at_once", "clips"), [(0, 7), (20, 1), (60, 1), (89, 1), (91, 2), (10_000, 167)]
)
def test_as_many_clips_go_through_at_once_as_tokens_at_once_holds(tokens_at_once, clips):
    model = smoke_model()
    model.set_grad_checkpoint("every_block", tokens_at_once)
    assert model.clips_at_once(torch.Size((7, 4, 3, 7, 9))) == clips  # 60 tokens each
