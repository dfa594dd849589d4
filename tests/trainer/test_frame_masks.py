import dataclasses
import json
from collections import Counter

import pytest
import torch

from trainer.config import load_stage
from trainer.frame_masks import draw_frame_masks

NONE = load_stage("stage4").config.masks
KINDS = [field.name for field in dataclasses.fields(NONE) if field.name != "identity"]
REFERENCE_SPELLING = {"interpolate": "intepolate"}


def always(kind):
    return dataclasses.replace(NONE, **{kind: 1.0})


def drawn(config, frames, count):
    masks = draw_frame_masks(config, frames, range(count))
    return torch.ones(count, frames, dtype=torch.bool) if masks is None else masks


def agree(mine, published, count, published_count):
    """Two shares of as many draws, within five standard deviations of their difference."""
    share = (mine * count + published * published_count) / (count + published_count)
    spread = share * (1 - share) * (1 / count + 1 / published_count)
    return bool(((mine - published).abs() <= 5 * spread.sqrt() + 1e-3).all())


def histogram(masks):
    """Share of the masks with each number of given frames."""
    counts = (~masks).sum(dim=1).bincount(minlength=masks.shape[1] + 1)
    return counts / len(masks)


def published_histogram(facts, frames):
    counts = torch.zeros(frames + 1)
    for given, count in facts["hist_number_of_conditioned_frames"].items():
        counts[int(given)] = count
    return counts / facts["n"]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_stages_mixture_gives_frames_as_often_as_published(golden, stage):
    facts = json.loads((golden / "mask_generator.json").read_text())["mixtures"][stage]
    frames, count = facts["T"], 30_000
    masks = drawn(load_stage(stage).config.masks, frames, count)
    published = torch.tensor(facts["mean_mask_value_per_frame"])
    assert agree(masks.float().mean(dim=0), published, count, facts["n"])
    assert agree(histogram(masks), published_histogram(facts, frames), count, facts["n"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_alone_has_the_published_masks(golden, kind):
    single = json.loads((golden / "mask_generator.json").read_text())["single"]
    facts = single[f"{REFERENCE_SPELLING.get(kind, kind)}|T=20"]
    count = 10_000
    masks = drawn(always(kind), 20, count)
    published = torch.tensor(facts["conditioned_fraction_per_frame"])
    assert agree(1 - masks.float().mean(dim=0), published, count, facts["n"])
    assert agree(histogram(masks), published_histogram(facts, 20), count, facts["n"])
    if facts["patterns"]:
        patterns = Counter("".join(map(str, mask)) for mask in masks.int().tolist())
        assert set(patterns) == set(facts["patterns"])
        mine = torch.tensor([patterns[pattern] / count for pattern in facts["patterns"]])
        theirs = torch.tensor(list(facts["patterns"].values())) / facts["n"]
        assert agree(mine, theirs, count, facts["n"])


def patterns_of(kind, frames):
    masks = drawn(always(kind), frames, 300).int().tolist()
    return {"".join(map(str, mask)) for mask in masks}


def test_an_image_is_never_masked():
    assert [draw_frame_masks(always(kind), 1, range(100)) for kind in KINDS] == [None] * len(KINDS)


def test_two_latent_frames_keep_one_to_train_on():
    assert {kind: patterns_of(kind, 2) for kind in KINDS} == {
        "random": {"01", "10", "11"},
        "interpolate": {"01", "10"},
        "quarter_random": {"01", "10"},
        "quarter_head": {"01"},
        "quarter_tail": {"10"},
        "quarter_head_tail": {"01"},
        "image_random": {"01", "10"},
        "image_head": {"01"},
        "image_tail": {"10"},
        "image_head_tail": {"01"},
    }


def test_three_latent_frames_keep_one_to_train_on():
    assert {kind: patterns_of(kind, 3) for kind in KINDS} == {
        "random": {"001", "010", "011", "100", "101", "110", "111"},
        "interpolate": {"010", "101"},
        "quarter_random": {"011", "101", "110"},
        "quarter_head": {"011"},
        "quarter_tail": {"110"},
        "quarter_head_tail": {"010"},
        "image_random": {"011", "101", "110"},
        "image_head": {"011"},
        "image_tail": {"110"},
        "image_head_tail": {"010"},
    }


def test_a_mask_depends_on_its_clips_seed_alone():
    config = load_stage("stage1").config.masks
    together = draw_frame_masks(config, 15, range(50))
    alone = torch.cat([drawn_from(config, [seed]) for seed in range(50)])
    backwards = draw_frame_masks(config, 15, range(49, -1, -1))
    assert torch.equal(together, alone)
    assert torch.equal(together, backwards.flip(0))


def drawn_from(config, seeds):
    mask = draw_frame_masks(config, 15, seeds)
    return torch.ones(len(seeds), 15, dtype=torch.bool) if mask is None else mask


def test_a_share_of_unmasked_clips_that_is_spelled_out_changes_no_mask():
    config = load_stage("stage2").config.masks
    spelled = dataclasses.replace(config, identity=0.75)
    assert torch.equal(drawn(spelled, 15, 500), drawn(config, 15, 500))
    assert draw_frame_masks(dataclasses.replace(NONE, identity=1.0), 15, range(10)) is None


def test_a_batch_in_which_nothing_is_masked_has_no_mask():
    assert draw_frame_masks(NONE, 15, range(10)) is None
    rarely = dataclasses.replace(NONE, image_head=1e-9)
    assert draw_frame_masks(rarely, 15, range(10)) is None
    assert draw_frame_masks(always("image_head"), 15, []) is None
