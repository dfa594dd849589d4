"""Small models of random weights and what they are given."""

import torch

from trainer.model.attention import lay_out_captions
from trainer.model.stdit3 import SIZES, STDiT3, STDiT3Config


def smoke_model(**fields):
    torch.manual_seed(0)
    return STDiT3(STDiT3Config(**{**SIZES["STDiT3-smoke"], **fields}))


def random_inputs(shape=(2, 4, 3, 7, 9), lengths=(5, 32)):
    draws = torch.Generator().manual_seed(1)
    batch = shape[0]
    return {
        "x": torch.randn(shape, generator=draws),
        "timestep": torch.linspace(100, 900, batch),
        "y": torch.randn(batch, 1, 32, 32, generator=draws),
        "mask": (torch.arange(32) < torch.tensor(lengths)[:, None]).long(),
        "fps": torch.full((batch,), 24.0),
        "height": torch.tensor([56.0]),
        "width": torch.tensor([72.0]),
    }


def laid_out(packed, lengths):
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    captions = lay_out_captions(mask, tuple(mask.shape), packed.device)
    y = packed.new_zeros(*mask.shape, packed.shape[-1])
    y[mask] = packed
    return y.flatten(0, 1)[captions.tokens], captions
