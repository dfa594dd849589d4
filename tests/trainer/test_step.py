from types import SimpleNamespace

import torch

from trainer.config import load_stage
from trainer.phases import Phases
from trainer.rectified_flow import RectifiedFlow
from trainer.step import Trainee

SMOKE = load_stage("smoke").config


def drawn(index, rows, epoch=0):
    """Timesteps and noise of a micro batch of empty latents."""
    unused = ("vae", "caption_encoder", "model", "state", "lr_schedule")
    trainee = Trainee(
        config=SMOKE,
        device=torch.device("cpu"),
        flow=RectifiedFlow(SMOKE.flow),
        phases=Phases(),
        **dict.fromkeys(unused),
    )
    place = SimpleNamespace(index=index)
    batch = SimpleNamespace(rows=rows, micro_batch=place, height=144, width=256)
    found = trainee._draw(batch, epoch, torch.zeros(2, 4, 1, 4, 4), {})
    return found.t, found.noise


def test_no_two_micro_batches_of_a_step_or_of_two_epochs_have_a_draw_in_common():
    batches = [drawn(0, (1, 2)), drawn(1, (1, 2)), drawn(1, (1, 2), epoch=1)]
    for values in zip(*batches, strict=True):
        together = torch.cat([one.flatten() for one in values])
        assert len(together.unique()) == len(together)
    again = drawn(1, (1, 2))
    assert all(torch.equal(*pair) for pair in zip(again, batches[1], strict=True))
