from types import SimpleNamespace

import pytest
import torch

from tests.trainer import ranks
from trainer.chunks import NoisedBatch, backward_in_chunks
from trainer.config import load_stage
from trainer.distributed.zero import wrap_with_zero
from trainer.model.stdit3 import SIZES, STDiT3, STDiT3Config
from trainer.phases import Phases
from trainer.rectified_flow import RectifiedFlow

FLOW = RectifiedFlow(load_stage("smoke").config.flow)
CLIPS = 5


def drawn(seed, clips=CLIPS):
    draws = torch.Generator().manual_seed(seed)
    shape = clips, 4, 3, 6, 8
    frames = torch.ones(clips, 3, dtype=torch.bool)
    frames[1:, 0] = False
    return NoisedBatch(
        latents=torch.randn(shape, generator=draws),
        noise=torch.randn(shape, generator=draws),
        t=torch.linspace(100, 900, clips),
        conditions={
            "y": torch.randn(clips, 1, 32, 32, generator=draws),
            "mask": (torch.arange(32) < torch.arange(3 + clips, 3, -1)[:, None]).long(),
            "fps": torch.linspace(8, 30, clips),
            "height": torch.tensor([48.0]),
            "width": torch.tensor([64.0]),
            "drop_captions": torch.arange(clips) == 2,
        },
        frame_mask=frames,
    )


@pytest.mark.parametrize(
    ("most", "sizes"), [(9, [5]), (5, [5]), (4, [3, 2]), (2, [2, 2, 1]), (1, [1] * 5)]
)
def test_parts_hold_every_clip_once_with_all_that_belongs_to_it(most, sizes):
    whole = drawn(0)
    parts = whole.chunks(most)
    assert [len(clips) for clips in parts] == sizes
    assert sorted(clip for clips in parts for clip in clips) == list(range(CLIPS))
    for clips in parts:
        part = whole.select(clips)
        for name in ("latents", "noise", "t", "frame_mask"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[clips])
        for name, value in whole.conditions.items():
            expected = value if len(value) == 1 else value[clips]
            assert torch.equal(part.conditions[name], expected), name


def test_clips_with_captions_about_as_long_go_together():
    whole = drawn(0)
    lengths = torch.tensor([20, 4, 30, 4, 21])
    whole.conditions["mask"] = (torch.arange(32) < lengths[:, None]).long()
    assert whole.chunks(2) == [[1, 3], [0, 4], [2]]
    for mask in ({}, {"mask": torch.ones(1, 32)}):  # without captions, or with one for all
        others = whole._replace(conditions={"fps": whole.conditions["fps"], **mask})
        assert others.chunks(2) == [[0, 1], [2, 3], [4]]


def test_a_single_clip_keeps_its_sizes():
    whole = drawn(0, clips=1)
    [clips] = whole.chunks(1)
    assert whole.select(clips).conditions["height"].tolist() == [48.0]


def step(it, most):
    """What a step in parts of `most` clips leaves on this rank."""
    torch.manual_seed(0)
    model = STDiT3(STDiT3Config(**SIZES["STDiT3-smoke"]))
    for parameter in model.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    settings = SimpleNamespace(dtype="fp32")
    wrapped, optimizer = wrap_with_zero(model, ranks.OPTIM, settings, phases=Phases())
    losses = []
    for count in range(2):  # micro batches of a step
        batch = drawn(10 * it.rank + count)
        how = {"weight": 0.5, "clips_at_once": most}
        losses.append(backward_in_chunks(FLOW, wrapped, optimizer, batch, **how))
    optimizer.step()
    weights = torch.cat([parameter.detach().flatten() for parameter in optimizer.working])
    return torch.cat(losses), optimizer.grad_norm, weights


def compare_parts(it, folder):
    whole = step(it, CLIPS)
    for most in ((1, 2)[it.rank], 3):  # five parts here, three there
        losses, norm, weights = step(it, most)
        torch.testing.assert_close(losses, whole[0])
        torch.testing.assert_close(norm, whole[1])
        # the first step of Adam is the sign of the gradient, so tiny ones may go either way
        assert (weights - whole[2]).abs().gt(1e-5).float().mean() < 1e-3


def test_parts_learn_what_the_whole_does_though_ranks_have_other_numbers_of_them(tmp_path):
    ranks.run(2, compare_parts, tmp_path)
