import json

import pytest
import torch
from safetensors.torch import load_file

from trainer.sampling.mask_strategy import (
    MaskGroup,
    apply_mask_strategy,
    nearest_multiple,
    parse_mask_strategy,
)


@pytest.fixture
def helpers(golden):
    return json.loads((golden / "inference_helpers.json").read_text())


def test_strings_have_the_published_groups(helpers):
    for text, groups in helpers["parse_mask_strategy"]:
        assert parse_mask_strategy(text) == [MaskGroup(*group) for group in groups]


def test_latents_and_frame_masks_are_the_published_ones(golden, helpers):
    tensors = load_file(golden / "inference_helpers.safetensors")
    for number, case in enumerate(helpers["apply_mask_strategy"]):
        before = tensors[f"{number}.z"].clone()
        z, mask = apply_mask_strategy(
            tensors[f"{number}.z"],
            [[reference] for reference in tensors[f"{number}.ref"]],
            [parse_mask_strategy(text) for text in case["strategies"]],
            case["loop_i"],
            align=case["align"],
        )
        assert torch.equal(z, tensors[f"{number}.z_out"])
        assert torch.equal(mask, tensors[f"{number}.mask"])
        assert torch.equal(tensors[f"{number}.z"], before)


def test_starts_are_aligned_as_published(helpers):
    for *arguments, expected in helpers["find_nearest_point_value_point_max"]:
        assert nearest_multiple(*arguments) == expected
    moved = [nearest_multiple(frame, 5, 30) for frame in (0, 2, 3, 7, 8, *range(25, 30))]
    assert moved == [0, 0, 5, 5, 10, 25, 25, 25, 25, 25]


def test_a_group_chooses_among_its_clips_references():
    z = torch.zeros(1, 1, 4, 1, 1)
    references = [[torch.full((1, 2, 1, 1), 7.0), torch.full((1, 3, 1, 1), 9.0)]]
    groups = parse_mask_strategy("0,0,0,0,1;0,1,-2,-3,9,0.5")
    z, mask = apply_mask_strategy(z, references, [groups], 0)
    assert z.flatten().tolist() == [7, 9, 9, 0]
    assert mask.tolist() == [[0, 0.5, 0.5, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0,x", "mask strategy '0,0,x': expected up to 6 numbers: loop,reference,"),
        ("0;1,2,3,4,5,0.5,7", "mask strategy '1,2,3,4,5,0.5,7': expected up to 6 numbers"),
        ("0;", "mask strategy '': expected up to 6 numbers"),
        ("0.5", "mask strategy '0.5': expected up to 6 numbers"),
        ("0,0,0,0,1,1.5", "mask strategy '0,0,0,0,1,1.5': edit is 1.5; expected 0 to 1"),
        ("0,0,0,0,1,nan", "mask strategy '0,0,0,0,1,nan': edit is nan; expected 0 to 1"),
        ("0,0,0,0,0", "mask strategy '0,0,0,0,0': length is 0; expected at least 1"),
    ],
)
def test_a_string_that_cannot_be_read_is_quoted(text, message):
    with pytest.raises(ValueError, match="mask strategy") as caught:
        parse_mask_strategy(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1", "a mask strategy names reference 1; there are 1, counted from 0"),
        ("0,-1", "a mask strategy names reference -1; there are 1, counted from 0"),
        ("0,0,2", "a mask strategy names latent frame 2 of 2"),
        ("0,0,0,-5", "a mask strategy names latent frame -5 of 4"),
    ],
)
def test_a_group_for_something_that_does_not_exist_is_refused(text, message):
    z, reference = torch.zeros(1, 1, 4, 1, 1), torch.zeros(1, 2, 1, 1)
    with pytest.raises(ValueError, match="mask strategy") as caught:
        apply_mask_strategy(z, [[reference]], [parse_mask_strategy(text)], 0)
    assert str(caught.value) == message
