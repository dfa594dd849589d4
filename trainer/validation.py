"""The loss on fixed clips, with fixed noise, at fixed timesteps: comparable from step to step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from trainer.config import TrainConfig
from trainer.data.batch_sampler import MicroBatch
from trainer.data.buckets import assign_epoch
from trainer.data.dataset import ClipTable, load_clips
from trainer.data.loader import ClipLoader
from trainer.distributed.node_group import node_of
from trainer.distributed.parallel import Ranks
from trainer.model import build as networks
from trainer.seeds import derive_seed
from trainer.settings import ConfigError
from trainer.step import TrainStep

_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the noise: the middles of the timestep bands


@dataclass(frozen=True)
class _Example:
    place: int  # among the clips of all ranks
    latents: Tensor  # on the host, as the noise and the conditions
    noise: Tensor
    conditions: dict[str, Tensor]


class Validation:
    """Clips of `validation.path`, encoded once; each rank has its share of them."""

    def __init__(self, train_step: TrainStep, ranks: Ranks) -> None:
        settings = train_step.config
        path = settings.validation.path or settings.data.path
        clips = load_clips(Path(path))
        plan = _plan(clips, settings)
        self._train_step, self._clips = train_step, len(plan)
        mine = plan[ranks.rank :: ranks.world_size]
        self._examples = (
            list(_encode(_with_encoders(train_step, ranks), clips, mine)) if plan else []
        )
        found = torch.tensor(len(self._examples), device=ranks.device)
        dist.all_reduce(found)
        if not found:
            raise ConfigError([f"{path}: no clip for validation fits a bucket and can be read"])

    @torch.no_grad()
    def losses(self) -> list[float]:
        """The mean over timesteps of each clip that could be read, in the order of the table.

        The same numbers whatever the number of ranks; all ranks take part and get them.
        """
        train_step = self._train_step
        train_step.model.eval()
        losses = torch.full((self._clips,), 0.0, dtype=torch.float64, device=train_step.device)
        known = torch.zeros_like(losses)
        for example in self._examples:
            losses[example.place] = self._loss_of(example)
            known[example.place] = 1
        train_step.model.train()
        both = torch.stack([losses, known])
        dist.all_reduce(both)  # every clip is one rank's, so nothing is rounded
        found, is_known = both.cpu()
        return [float(loss) for loss in found[is_known > 0]]

    def _loss_of(self, example: _Example) -> Tensor:
        train_step = self._train_step
        device, span = train_step.device, train_step.config.flow.num_timesteps
        latents, noise = example.latents.to(device), example.noise.to(device)
        # captions' masks and sizes stay on the host, as in training
        kept = {"mask", "height", "width"}
        conditions = {
            name: value if name in kept else value.to(device)
            for name, value in example.conditions.items()
        }
        losses = [
            train_step.flow.training_loss(
                train_step.model,
                latents,
                noise,
                torch.tensor([share * span], device=device),
                conditions,
                None,
            )
            for share in _SHARES
        ]
        return torch.stack(losses).double().mean()


def _plan(clips: ClipTable, settings: TrainConfig) -> list[MicroBatch]:
    """The first clips of the table that a bucket takes, each alone."""
    assignment = assign_epoch(clips, settings, 0)
    rows = np.flatnonzero(assignment.index >= 0)[: settings.validation.clips].tolist()
    return [
        MicroBatch(place, assignment.buckets[int(assignment.index[row])], (row,))
        for place, row in enumerate(rows)
    ]


def _with_encoders(train_step: TrainStep, ranks: Ranks) -> TrainStep:
    """With features cached, training itself has no encoders; all ranks take part."""
    settings, node = train_step.config, node_of(ranks)
    where = {"device": train_step.device, "dtype": train_step.dtype}
    return replace(
        train_step,
        vae=train_step.vae
        or node.build(partial(networks.build_vae, settings.vae, settings.seed, **where)),
        caption_encoder=train_step.caption_encoder
        or node.build(
            partial(networks.build_caption_encoder, settings.text_encoder, settings.seed, **where)
        ),
    )


def _encode(
    train_step: TrainStep, clips: ClipTable, plan: Sequence[MicroBatch]
) -> Iterator[_Example]:
    settings = train_step.config
    with ClipLoader(clips, seed=settings.seed, settings=settings.data) as loader:
        for batch in loader.batches(0, plan):
            if batch.is_empty:
                continue
            latents, conditions = train_step.encode(batch, 0)
            conditions["drop_captions"] = torch.zeros_like(conditions["drop_captions"])
            seed = derive_seed(settings.seed, batch.rows[0], "validation")
            noise = torch.randn(
                latents.shape, generator=torch.Generator().manual_seed(seed), dtype=latents.dtype
            )
            host = {name: value.cpu() for name, value in conditions.items()}
            yield _Example(batch.micro_batch.index, latents.cpu(), noise, host)
