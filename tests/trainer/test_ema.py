import json

import torch
from safetensors.torch import load_file

from trainer.ema import Ema


def test_six_updates_give_the_published_averages(golden):
    tensors, facts = load_file(golden / "ema.safetensors"), json.loads((golden / "ema.json").read_text())
    masters = {name: tensors[f"init.{name}"].clone() for name in ("weight", "bias")}
    ema = Ema(list(masters.values()), facts["decay"])
    for step in range(facts["steps"]):
        for name, master in masters.items():
            key = f"step{step}.model.{name}"
            master.copy_(tensors[key])
        ema.update()
        for name, shard in zip(masters, ema.shards, strict=True):
            torch.testing.assert_close(shard, tensors[f"step{step}.ema.{name}"], rtol=1e-6, atol=1e-7)
