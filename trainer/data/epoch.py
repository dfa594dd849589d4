"""The plan of the epoch in which training stands."""

from dataclasses import replace

from trainer.config import TrainConfig
from trainer.data.batch_sampler import EpochPlan, left_out, plan_epoch
from trainer.data.buckets import assign_epoch
from trainer.data.cached_features import CachedFeatures
from trainer.data.dataset import ClipTable
from trainer.data.position import Position
from trainer.distributed.parallel import Ranks
from trainer.settings import ConfigError


def plan_rest_of_epoch(
    clips: ClipTable,
    features: CachedFeatures,
    position: Position,
    settings: TrainConfig,
    ranks: Ranks,
) -> tuple[EpochPlan, str]:
    """The rest of an epoch; at its beginning, also a summary of the clips it leaves out.

    ConfigError says why these are all.
    """
    assignment = assign_epoch(clips, settings, features.draw_of(position.epoch))
    plan = plan_epoch(
        replace(assignment, epoch=position.epoch),
        world_size=ranks.world_size,
        window=settings.balance.window,
        consumed=position.finished_segments,
        costs=position.costs,
    )
    if position.finished_segments:
        return plan, ""
    counts = left_out(clips, assignment, plan)
    reasons = "; ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    if plan.steps == 0:
        raise ConfigError(
            [
                f"{settings.data.path}: none of its {len(clips)} clips can be trained "
                f"on by {ranks.world_size} ranks: {reasons}; change data.path or buckets"
            ]
        )
    return plan, reasons or "none"
