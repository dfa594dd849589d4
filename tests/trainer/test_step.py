from types import SimpleNamespace

import pytest
import torch

from trainer.config import load_stage
from trainer.phases import Phases
from trainer.rectified_flow import RectifiedFlow
from trainer.remedy import Remedy, remedy_of
from trainer.step import GpuMemoryError, TrainStep

SMOKE = load_stage("smoke").config


def without_networks(**settings):
    unused = ("vae", "caption_encoder", "model", "lr_schedule")
    return TrainStep(
        config=SMOKE,
        device=torch.device("cpu"),
        flow=RectifiedFlow(SMOKE.flow),
        phases=Phases(),
        **dict.fromkeys(unused),
        **{"state": None, **settings},
    )


def drawn(index, rows, epoch=0):
    """Timesteps and noise of a micro batch of empty latents."""
    train_step = without_networks()
    place = SimpleNamespace(index=index)
    batch = SimpleNamespace(rows=rows, micro_batch=place, height=144, width=256)
    found = train_step._draw(batch, epoch, torch.zeros(2, 4, 1, 4, 4), {})
    return found.t, found.noise


def test_no_two_micro_batches_of_a_step_or_of_two_epochs_have_a_draw_in_common():
    batches = [drawn(0, (1, 2)), drawn(1, (1, 2)), drawn(1, (1, 2), epoch=1)]
    for values in zip(*batches, strict=True):
        together = torch.cat([one.flatten() for one in values])
        assert len(together.unique()) == len(together)
    again = drawn(1, (1, 2))
    assert all(torch.equal(*pair) for pair in zip(again, batches[1], strict=True))


def test_a_micro_batch_that_does_not_fit_is_named_and_what_takes_less():
    class Full(TrainStep):
        def encode(self, batch, epoch):
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."
            )

    full = Full(**vars(without_networks(state=SimpleNamespace(model=None, optimizer=None))))
    bucket = SimpleNamespace(batch_size=8, name="360p/51/0.56", tokens=110_400)
    batch = SimpleNamespace(micro_batch=SimpleNamespace(bucket=bucket))
    with pytest.raises(GpuMemoryError) as caught:
        full._backward(iter([batch]), 1, 0)
    assert str(caught.value) == (
        "8 clips of 360p/51/0.56 do not fit into the GPU's memory: CUDA out of memory. Tried to "
        "allocate 2.00 GiB; a smaller model.tokens_at_once takes less of it (now 110400)"
    )
    assert remedy_of(caught.value) == Remedy(settings={"model.tokens_at_once": 55200})
