import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from tests.trainer import ranks
from trainer.config import TrainerConfig
from trainer.distributed.zero import wrap_with_zero

PARTS = 3  # micro batches of a step


def learn(rank, parts):
    """Steps whose batch is cut into so many micro batches."""
    for step in range(3):
        random = torch.Generator().manual_seed(step)
        x, y = (torch.randn(ranks.CLIPS, size, generator=random) for size in (5, 3))
        mine = slice(rank.ranks.rank, None, rank.ranks.world_size)
        for part_x, part_y in zip(x[mine].chunk(parts), y[mine].chunk(parts), strict=True):
            loss = F.mse_loss(rank.wrapped(part_x), part_y) / parts
            rank.state.optimizer.backward(loss)
        rank.state.optimizer.step()
        rank.state.optimizer.zero_grad()


def compare_accumulated(it, folder):
    whole, parts = (ranks.Rank(it, folder / name, dtype="fp32") for name in ("whole", "parts"))
    before = [master.clone() for master in whole.state.optimizer.masters]
    learn(whole, 1)
    learn(parts, PARTS)
    optimizers = whole.state.optimizer, parts.state.optimizer
    torch.testing.assert_close(optimizers[0].masters, optimizers[1].masters, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(optimizers[0].grad_norm, optimizers[1].grad_norm)
    pairs = zip(before, optimizers[0].masters, strict=True)
    assert not any(torch.equal(*pair) for pair in pairs if pair[0].any())


def test_gradients_of_several_micro_batches_add_up_to_those_of_one(tmp_path):
    ranks.run(2, compare_accumulated, tmp_path)


def leave_out(it, folder):
    rank = ranks.Rank(it, folder)
    rank.train(2)
    optimizer, before = rank.state.optimizer, rank.slices()
    loss = rank.wrapped(torch.ones(2, 5, dtype=torch.bfloat16)).float().mean()
    optimizer.backward(loss * (math.nan if it.is_first else 1.0))
    optimizer.step()
    optimizer.zero_grad()
    assert not torch.isfinite(optimizer.grad_norm)
    assert optimizer.guard.counts.tolist() == [1, 1]
    after = rank.slices()
    kept = [name for name in before if name != "model.seen"]
    assert all(torch.equal(before[name], after[name]) for name in kept)
    rank.train(4)
    assert optimizer.guard.counts.tolist() == [1, 0]
    assert len(optimizer.guard.recent_norms) == 4
    assert not torch.equal(before["model.first.weight"], rank.slices()["model.first.weight"])


def test_nan_on_one_rank_leaves_the_step_out_on_all(tmp_path):
    ranks.run(2, leave_out, tmp_path)


class Two(nn.Module):
    """Two weights that are used in one order or the other, or of which one is not used."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x, order):
        for name in order:
            x = torch.tanh(getattr(self, name)(x))
        return x


def in_any_order(it, folder):
    torch.manual_seed(0)
    settings = TrainerConfig(dtype="fp32", compile=False, collective_timeout_s=60)
    ours = Two()
    plain = copy.deepcopy(ours)
    wrapped, optimizer = wrap_with_zero(ours, ranks.OPTIM, settings)
    optimizer._reduce_bucket_size = 1  # every tensor is a bucket
    adamw = torch.optim.AdamW(plain.parameters(), lr=1e-2, betas=(0.9, 0.999), weight_decay=0.01)
    for both in (("ab", "ba"), ("ba", "ab"), ("ab", "a"), ("b", "ba")):
        x = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
        optimizer.backward(wrapped(x, both[it.rank]).square().mean())
        optimizer.step()
        optimizer.zero_grad()
        sum(plain(x, order).square().mean() / 2 for order in both).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), ranks.OPTIM.grad_clip)
        adamw.step()
        adamw.zero_grad()
        for name, tensor in plain.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_ranks_whose_gradients_come_in_another_order_or_not_at_all_learn_the_mean(tmp_path):
    ranks.run(2, in_any_order, tmp_path)


def norms(it, folder):
    rank = ranks.Rank(it, folder, dtype="fp32")
    weights = [p.detach().clone() for p in rank.state.optimizer.working]
    rank.train(1)
    expected = torch.stack([weight.square().sum() for weight in weights]).sum().sqrt()
    torch.testing.assert_close(rank.state.optimizer.weight_norm, expected)


def test_the_weight_norm_is_that_of_all_trained_tensors_before_the_step(tmp_path):
    ranks.run(2, norms, tmp_path)
