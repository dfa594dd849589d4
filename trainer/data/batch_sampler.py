"""The order of an epoch's micro batches: a finite plan with as many steps on every rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.data.buckets import (
    Assignment,
    Bucket,
    Clips,
    is_large_enough,
    is_long_enough,
    uniform,
)
from trainer.data.costs import costs_of
from trainer.seeds import derive_seed

TOO_SMALL = "too small for every resolution"
TOO_SHORT = "too short for every length"
NOT_KEPT = "not kept, by chance or because its bucket takes none"
NO_BATCH = "left over when a bucket is cut into batches"
NO_STEP = "left over when batches are dealt to ranks"

IntArray = np.ndarray[Any, Any]


@dataclass(frozen=True)
class MicroBatch:
    """The clips that one rank trains on in one step."""

    index: int  # in the epoch, whatever the number of ranks: the key of random draws
    bucket: Bucket
    rows: tuple[int, ...]


@dataclass(frozen=True)
class EpochPlan:
    """The micro batches of each step that is left, one for each rank."""

    order: IntArray  # [steps, ranks] -> index of a micro batch
    bucket_of: IntArray  # by micro batch
    first_row: IntArray  # by micro batch, into `rows`
    rows: IntArray
    buckets: Sequence[Bucket]

    @property
    def steps(self) -> int:
        """Number of steps, equal on all ranks."""
        return len(self.order)

    def for_rank(self, rank: int, start_step: int = 0) -> list[MicroBatch]:
        """A rank's micro batches from a step on."""
        return [self._micro_batch(int(index)) for index in self.order[start_step:, rank]]

    def step(self, number: int) -> list[MicroBatch]:
        """The micro batches of all ranks in one step."""
        return [self._micro_batch(int(index)) for index in self.order[number]]

    def _micro_batch(self, index: int) -> MicroBatch:
        bucket = self.buckets[int(self.bucket_of[index])]
        begin = self.first_row[index]
        rows = self.rows[begin : begin + bucket.batch_size]
        return MicroBatch(index, bucket, tuple(rows.tolist()))


def plan_epoch(
    assignment: Assignment,
    *,
    world_size: int,
    window: int,
    consumed: Sequence[tuple[int, int]] = (),
    costs: Mapping[str, float] | None = None,
) -> EpochPlan:
    """The plan of an epoch, or of what is left of it.

    A bucket's clips are shuffled and cut into micro batches, which are shuffled in turn; too few
    clips for one, or too few micro batches for all ranks, are left out. With a window, the micro
    batches of `window` steps are sorted by cost and dealt anew, so that the ranks of a step have
    equal work; `costs` are seconds by the bucket's name, where they were measured. `consumed` are
    (ranks, steps) done before on other numbers of ranks: what is left is exactly what those steps
    did not train on, if the window and the costs are those of the epoch's beginning.
    """
    rows, bucket_of, first_row = _micro_batches(assignment)
    key = _key(assignment, "order")
    left = np.argsort(uniform(key, np.arange(len(bucket_of))), kind="stable")
    cost_of = costs_of(assignment.buckets, costs or {})[bucket_of]
    for ranks, steps in consumed:
        done = _assign_to_ranks(left, cost_of, ranks, window, assignment)[:steps]
        left = left[~np.isin(left, done)]
    order = _assign_to_ranks(left, cost_of, world_size, window, assignment)
    return EpochPlan(order, bucket_of, first_row, rows, assignment.buckets)


def left_out(clips: Clips, assignment: Assignment, plan: EpochPlan) -> dict[str, int]:
    """Counts of clips that an epoch's plan leaves out; each counts under one reason."""
    reasons = without_bucket(clips, assignment)
    sizes = np.array([bucket.batch_size for bucket in assignment.buckets])
    in_batches = int(sizes[plan.bucket_of].sum())
    in_steps = int(sizes[plan.bucket_of[plan.order]].sum())
    return {
        **{reason: int(mask.sum()) for reason, mask in reasons.items()},
        NO_BATCH: int((assignment.index >= 0).sum()) - in_batches,
        NO_STEP: in_batches - in_steps,
    }


def without_bucket(clips: Clips, assignment: Assignment) -> dict[str, IntArray]:
    """Masks of the clips that no bucket takes, by reason."""
    pixels = clips.height.astype(np.int64) * clips.width
    in_size: IntArray = np.zeros(len(pixels), dtype=bool)
    in_both = in_size.copy()
    for rule in assignment.rules:
        by_size = is_large_enough(pixels, rule.resolution)
        in_size |= by_size
        in_both |= by_size & is_long_enough(clips.num_frames, rule.frames)
    return {
        TOO_SMALL: ~in_size,
        TOO_SHORT: in_size & ~in_both,
        NOT_KEPT: in_both & (assignment.index < 0),
    }


def _key(assignment: Assignment, purpose: str) -> np.uint64:
    return np.uint64(derive_seed(assignment.seed, assignment.epoch, purpose))


def _micro_batches(assignment: Assignment) -> tuple[IntArray, IntArray, IntArray]:
    """Shuffled rows, grouped by bucket; for each micro batch its bucket and its first row."""
    kept = np.flatnonzero(assignment.index >= 0)
    key = _key(assignment, "rows")
    shuffled = kept[np.argsort(uniform(key, kept), kind="stable")]
    bucket_of_row = assignment.index[shuffled].astype(np.uint16)  # which sorts much faster
    rows = shuffled[np.argsort(bucket_of_row, kind="stable")]
    counts = assignment.counts
    sizes = np.array([max(1, bucket.batch_size) for bucket in assignment.buckets])
    batches = counts // sizes
    bucket_of: IntArray = np.repeat(np.arange(len(batches)), batches)
    number_in_bucket = np.arange(len(bucket_of)) - np.repeat(np.cumsum(batches) - batches, batches)
    begin_of_bucket = np.cumsum(counts) - counts
    first_row = begin_of_bucket[bucket_of] + number_in_bucket * sizes[bucket_of]
    return rows, bucket_of, first_row


def _assign_to_ranks(
    left: IntArray, cost_of: IntArray, ranks: int, window: int, assignment: Assignment
) -> IntArray:
    """[steps, ranks]: the micro batches in `left`, balanced within windows of steps."""
    steps = len(left) // ranks
    order = left[: steps * ranks].reshape(steps, ranks)
    if window < 2:
        return order
    key = _key(assignment, "window")
    whole = steps // window * window
    parts = [_balance(order[:whole].reshape(-1, window * ranks), cost_of, window, key)]
    if steps > whole:
        parts.append(_balance(order[whole:].reshape(1, -1), cost_of, steps - whole, key))
    dealt = np.concatenate([part.reshape(-1, ranks) for part in parts])
    # Else the last rank always had the most expensive of a step, and one node the same shapes.
    random_keys = uniform(_key(assignment, "ranks"), dealt)
    return np.take_along_axis(dealt, np.argsort(random_keys, axis=1), axis=1)


def _balance(windows: IntArray, cost_of: IntArray, steps: int, key: np.uint64) -> IntArray:
    """Each window's micro batches sorted by cost, cut into steps, and the steps shuffled.

    `windows` is [windows, steps x ranks] of micro batches; the result [windows, steps, ranks]. One
    window of 2 steps on 2 ranks, costs 9, 1, 8, 2 of micro batches 0 to 3: sorted 1, 3, 2, 0, cut
    into [[1, 3], [2, 0]]: the ranks of a step wait for each other 1 at most, and not 8.
    """
    order = np.argsort(cost_of[windows], axis=1, kind="stable")
    cut = np.take_along_axis(windows, order, axis=1)
    cut = cut.reshape(len(windows), steps, windows.shape[1] // steps)
    random_keys = uniform(key, cut[:, :, 0])  # drawn by a step's first micro batch
    return np.take_along_axis(cut, np.argsort(random_keys, axis=1)[:, :, None], axis=1)
