"""The trainer's ledger over all attempts of a run, compared with what its epochs consist of."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from soractl.runs.record import start_step
from trainer.config import TrainConfig, read
from trainer.data.batch_sampler import plan_epoch
from trainer.data.buckets import assign_epoch
from trainer.data.cached_features import CachedFeatures
from trainer.data.dataset import ClipTable, load_clips
from trainer.run_dir import AttemptDir, RunDir


def faults_in(run: RunDir, planned: int) -> list[str]:
    """Steps or clips that are missing, or that come twice."""
    lines = kept_lines(run)
    steps = [line["global_step"] for line in lines]
    found = [] if steps == list(range(1, planned + 1)) else [f"steps of the ledger: {steps}"]
    settings = read(run.config_json)
    clips = load_clips(Path(settings.data.path))
    most_ranks = max(len(line["micro_batches"]) for line in lines)
    by_epoch: dict[int, list[int]] = defaultdict(list)
    for line in lines:
        by_epoch[line["epoch"]] += [index for rank in line["micro_batches"] for index in rank]
    for epoch, trained in by_epoch.items():
        is_over = epoch < max(by_epoch)
        clips_of = micro_batches(clips, settings, epoch)
        found += [
            f"epoch {epoch}: {fault}"
            for fault in compare(trained, clips_of, most_ranks, is_over=is_over)
        ]
    return found


def compare(
    trained: Sequence[int], clips_of: Mapping[int, Sequence[int]], ranks: int, *, is_over: bool
) -> list[str]:
    """Clips of an epoch that were trained twice, or not, though the epoch is over.

    At its end fewer micro batches than there are ranks are left over.
    """
    times = Counter(row for index in trained for row in clips_of[index])
    twice = sorted(row for row, count in times.items() if count > 1)
    missing = set(clips_of) - set(trained)
    found = [f"clips {twice} came twice"] if twice else []
    if is_over and len(missing) >= ranks:
        found.append(f"micro batches {sorted(missing)} never came")
    return found


def micro_batches(
    clips: ClipTable, settings: TrainConfig, epoch: int
) -> dict[int, tuple[int, ...]]:
    """The clips of each micro batch of an epoch, by the number that the ledger has."""
    assignment = assign_epoch(clips, settings, CachedFeatures().draw_of(epoch))
    plan = plan_epoch(assignment, world_size=1, window=0)
    return {one.index: one.rows for one in plan.for_rank(0)}


def kept_lines(run: RunDir) -> list[dict]:
    """Lines of each attempt's ledger up to the step from which the next one went on."""
    attempts = run.attempts()
    ends = [start_step(after) for _, after in pairwise(attempts)]
    # an attempt that goes on further back takes back what several before it have done
    limits = [min(ends[i:], default=None) for i in range(len(attempts))]
    return [
        line
        for attempt, limit in zip(attempts, limits, strict=True)
        for line in _lines(attempt)
        if limit is None or line["global_step"] <= limit
    ]


def _lines(attempt: AttemptDir) -> list[dict]:
    if not attempt.trained.exists():
        return []
    return [json.loads(line) for line in attempt.trained.read_text().splitlines()]
