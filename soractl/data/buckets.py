"""`data buckets`: the first epoch of a stage over a table, as training would plan it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soractl.data import table as data_table
from soractl.errors import ExitCode, SoractlError
from trainer.config import TrainConfig, load_stage

if TYPE_CHECKING:
    from trainer.data.batch_sampler import EpochPlan
    from trainer.data.buckets import Assignment, BucketRule


@dataclass(frozen=True)
class Columns:
    """The columns of a table that assignment reads: int64 arrays, one number a clip."""

    num_frames: Any
    height: Any
    width: Any


@dataclass(frozen=True)
class BucketRow:
    """The clips of one resolution and length in an epoch."""

    resolution: str
    frames: int
    batch_size: int
    clips: int
    batches: int  # micro batches
    tokens: int  # of all micro batches

    @property
    def remainder(self) -> int:
        """Clips that fill no batch."""
        return self.clips - self.batches * self.batch_size


@dataclass(frozen=True)
class Epoch:
    """An epoch of a stage over a table."""

    stage: str
    table: Path
    clips: int
    ranks: int
    steps: int
    rows: tuple[BucketRow, ...]  # as the rules are tried: most pixels first, longest first
    dropped_by_reason: dict[str, int]  # clips that are not trained on, by reason
    balance: dict[int, float]  # window -> mean over max of the work of a step's ranks
    is_possible: bool  # whether any clip at all fits a bucket of this stage

    @cached_property
    def batches(self) -> int:
        """Number of micro batches."""
        return sum(row.batches for row in self.rows)

    @cached_property
    def tokens(self) -> int:
        """Tokens of all micro batches."""
        return sum(row.tokens for row in self.rows)

    def axes(self) -> tuple[list[str], list[int]]:
        """Resolutions, most pixels first, and lengths, shortest first."""
        lengths = sorted({row.frames for row in self.rows})
        return list(dict.fromkeys(row.resolution for row in self.rows)), lengths

    def shares(self) -> dict[str, dict[tuple[str, int], float]]:
        """Shares of all clips and of all tokens, in percent, by resolution and length."""
        by_place = {(row.resolution, row.frames): row for row in self.rows}
        return {
            "share of clips": {at: 100 * row.clips / self.clips for at, row in by_place.items()},
            "share of tokens": {
                at: 100 * row.tokens / max(1, self.tokens) for at, row in by_place.items()
            },
        }

    @property
    def exit_code(self) -> ExitCode:
        """Exit code: 1 if there is no step to train."""
        return ExitCode.OK if self.steps else ExitCode.FAILED


def first_epoch(stage: str, path: Path, ranks: int, overrides: Sequence[str]) -> Epoch:
    """The first epoch of a stage over a table, by the functions that training itself calls.

    SoractlError if the table cannot be read or a clip lacks a number.
    """
    from trainer.data.batch_sampler import left_out, plan_epoch
    from trainer.data.buckets import assign_epoch

    settings = load_stage(stage, tuple(overrides)).config
    clips = columns_of(path)
    assignment = assign_epoch(clips, settings, 0)
    windows = sorted({0, settings.balance.window})
    plans = {window: plan_epoch(assignment, world_size=ranks, window=window) for window in windows}
    plan = plans[settings.balance.window]
    return Epoch(
        stage=stage,
        table=path,
        clips=len(clips.num_frames),
        ranks=ranks,
        steps=plan.steps,
        rows=tuple(_rows(assignment.rules, assignment, plan)),
        dropped_by_reason=left_out(clips, assignment, plan),
        balance={window: _balance(plan) for window, plan in plans.items() if plan.steps},
        is_possible=any(rule.keep > 0 and rule.batch_size for rule in assignment.rules),
    )


def steps_of_epoch(settings: TrainConfig, path: Path, ranks: Sequence[int]) -> list[int]:
    """Optimizer steps of the first epoch on each number of ranks; errors as in `first_epoch`."""
    from trainer.data.batch_sampler import plan_epoch
    from trainer.data.buckets import assign_epoch

    assignment, window = assign_epoch(columns_of(path), settings, 0), settings.balance.window
    plans = [plan_epoch(assignment, world_size=number, window=window) for number in ranks]
    return [-(-plan.steps // settings.optim.accumulate) for plan in plans]


def columns_of(path: Path) -> Columns:
    """Lengths and sizes of a table's clips; SoractlError names a row that lacks one."""
    import numpy

    table = data_table.read(path)
    data_table.require(table, data_table.NUMBERS, path)
    for name in data_table.NUMBERS:
        if table[name].isna().any():
            row = int(table[name].isna().to_numpy().argmax())
            raise SoractlError(f"{path}: row {row} has no {name}")
    return Columns(*(table[name].to_numpy(dtype=numpy.int64) for name in data_table.NUMBERS))


def _rows(
    rules: "Sequence[BucketRule]", assignment: "Assignment", plan: "EpochPlan"
) -> "list[BucketRow]":
    import numpy

    batches = numpy.bincount(plan.bucket_of, minlength=len(assignment.buckets))
    rows = []
    for rule in rules:
        own = [
            place
            for place, bucket in enumerate(assignment.buckets)
            if (bucket.resolution, bucket.frames) == (rule.resolution, rule.frames)
        ]
        rows.append(
            BucketRow(
                resolution=rule.resolution,
                frames=rule.frames,
                batch_size=rule.batch_size or 0,
                clips=int(assignment.counts[own].sum()),
                batches=int(batches[own].sum()),
                tokens=sum(int(batches[i]) * assignment.buckets[i].tokens for i in own),
            )
        )
    return rows


def _balance(plan: "EpochPlan") -> float:
    """Share of their time that ranks work, if a step takes as long as its most expensive batch."""
    from trainer.data.costs import costs_of

    cost = costs_of(plan.buckets, {})[plan.bucket_of[plan.order]]
    return float(cost.mean(axis=1).sum() / cost.max(axis=1).sum())
