import dataclasses
import json

import pytest
import torch

from trainer.config import load_stage
from trainer.frame_masks import draw_frame_masks

NONE = load_stage("stage4").config.masks
SPELLING = {"intepolate": "interpolate"}


def draws(config, frames, count):
    masks = draw_frame_masks(config, frames, range(count))
    return torch.ones(count, frames, dtype=torch.bool) if masks is None else masks


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_stages_mixture_gives_each_frame_as_often_as_published(golden, stage):
    published = json.loads((golden / "mask_generator.json").read_text())["mixtures"][stage]
    masks = draws(load_stage(stage).config.masks, published["T"], 100_000)
    by_frame = masks.float().mean(0)
    expected = torch.tensor(published["mean_mask_value_per_frame"])
    assert float((by_frame - expected).abs().max()) < 0.006  # four standard deviations of either


def test_each_kind_of_mask_has_the_published_patterns(golden):
    published = json.loads((golden / "mask_generator.json").read_text())["single"]
    for key, facts in published.items():
        name, frames = key.split("|T=")
        if name == "identity":
            continue
        config = dataclasses.replace(NONE, **{SPELLING.get(name, name): 1.0})
        masks = draws(config, int(frames), 5_000)
        given = 1 - masks.float().mean(0)
        expected = torch.tensor(facts["conditioned_fraction_per_frame"])
        assert float((given - expected).abs().max()) < 0.045, key  # 5 * sqrt(2 / 4 / 5000) + 1e-3
        if facts["patterns"]:
            assert {"".join(str(int(bit)) for bit in mask) for mask in masks} == set(facts["patterns"])


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_clips_always_keep_a_frame_to_train_on(frames):
    for name in dataclasses.asdict(NONE):
        masks = draws(dataclasses.replace(NONE, **{name: 1.0}), frames, 200)
        assert masks.any(dim=1).all(), name


def test_a_mask_depends_on_its_clips_seed_alone():
    config = load_stage("stage1").config.masks
    alone = [draws_of(config, seed) for seed in range(50)]
    together = draw_frame_masks(config, 15, range(50))
    assert [mask.tolist() for mask in together] == alone


def draws_of(config, seed):
    mask = draw_frame_masks(config, 15, [seed])
    return [True] * 15 if mask is None else mask[0].tolist()


def test_a_batch_without_masked_clips_has_no_mask():
    assert draw_frame_masks(NONE, 15, range(10)) is None
