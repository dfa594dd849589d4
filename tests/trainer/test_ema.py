import json

import pytest
import torch
from safetensors.torch import load_file

from trainer.ema import Ema


def test_six_updates_give_the_published_averages(golden):
    tensors = load_file(golden / "ema.safetensors")
    facts = json.loads((golden / "ema.json").read_text())
    names = [name for name, shape in facts["shapes"].items() if shape["requires_grad"]]
    masters = {name: tensors[f"init.{name}"].clone() for name in names}
    ema = Ema(list(masters.values()), facts["decay"])
    for step in range(facts["steps"]):
        for name, master in masters.items():
            master.copy_(tensors[f"step{step}.model.{name}"])
        ema.update()
        for name, shard in zip(masters, ema.shards, strict=True):
            expected = tensors[f"step{step}.ema.{name}"]
            torch.testing.assert_close(shard, expected, rtol=1e-6, atol=1e-7)


def test_averages_have_the_roundings_of_the_formula_to_the_last_bit():
    draws = torch.Generator().manual_seed(0)
    masters = [torch.randn(size, generator=draws) for size in (1, 7, 5000)]
    ema, expected = Ema(masters, 0.9), [master.clone() for master in masters]
    for _ in range(20):
        for master, average in zip(masters, expected, strict=True):
            master.add_(torch.randn(master.shape, generator=draws))
            average.mul_(0.9).add_(master, alpha=1 - 0.9)
        ema.update()
    assert all(map(torch.equal, ema.shards, expected))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_slices_are_averaged_as_the_whole_is(count):
    draws = torch.Generator().manual_seed(0)
    start, end = torch.randn(2, 20, generator=draws)
    master = start.clone()
    whole = Ema([master], 0.9)
    slices = [part.clone() for part in start.chunk(count)]
    parts = Ema(slices, 0.9)
    master.copy_(end)
    for part, new in zip(slices, end.chunk(count), strict=True):
        part.copy_(new)
    whole.update()
    parts.update()
    assert torch.equal(torch.cat(parts.shards), whole.shards[0])


def test_masters_that_are_trained_stay_as_they_are():
    master = torch.nn.Parameter(torch.ones(3))
    ema = Ema([master], 0.75)
    with torch.no_grad():
        master.add_(4)
    ema.update()
    assert torch.equal(master, torch.full((3,), 5.0))
    assert torch.equal(ema.shards[0], torch.full((3,), 2.0))
    assert not ema.shards[0].requires_grad
