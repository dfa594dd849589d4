import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.test_buckets import reference_draw
from trainer.data.batch_sampler import plan_epoch
from trainer.data.buckets import assign, bucket_rules

RULES = bucket_rules(
    [1, 17, 34],
    {"240p": [3, 2, 1], "144p": [5, 3, 2], "256": [4, 2]},
    {"240p": [0.5, 0.5, (0.5, 0.5)], "144p": [1.0, 1.0, 1.0], "256": [0.4, 0.6]},
)

tables = st.lists(
    st.tuples(
        st.sampled_from([1, 10, 18, 35, 60]),
        st.sampled_from([(144, 256), (240, 426), (256, 144), (90, 100), (256, 256)]),
    ),
    max_size=120,
).map(
    lambda rows: SimpleNamespace(
        num_frames=np.array([frames for frames, _ in rows], dtype=int),
        height=np.array([size[0] for _, size in rows], dtype=int),
        width=np.array([size[1] for _, size in rows], dtype=int),
    )
)
ranks = st.integers(1, 5)
windows = st.sampled_from([0, 1, 2, 8])


def indices(plan):
    return plan.order.flatten().tolist()


@given(tables, ranks, windows, st.integers(0, 3))
@settings(deadline=None)
def test_each_kept_clip_comes_at_most_once_and_all_ranks_have_as_many_steps(
    clips, world_size, window, epoch
):
    assignment = assign(clips, RULES, 7, epoch)
    plan = plan_epoch(assignment, world_size=world_size, window=window)
    by_rank = [plan.for_rank(rank) for rank in range(world_size)]
    assert {len(batches) for batches in by_rank} == {plan.steps}
    batches = [batch for batches in by_rank for batch in batches]
    rows = [row for batch in batches for row in batch.rows]
    assert len(rows) == len(set(rows))
    for batch in batches:
        assert len(batch.rows) == batch.bucket.batch_size
        assert {assignment.buckets[assignment.index[row]] for row in batch.rows} == {batch.bucket}
    full = sum(
        n // b.batch_size for n, b in zip(assignment.counts, assignment.buckets, strict=True) if n
    )
    assert full - world_size < len(batches) <= full


@given(tables, st.lists(st.tuples(ranks, st.integers(0, 6)), max_size=3), ranks, windows)
@settings(deadline=None)
def test_what_is_left_on_other_numbers_of_ranks_is_exactly_what_was_not_done(
    clips, past, world_size, window
):
    assignment = assign(clips, RULES, 7, 0)
    everything = indices(plan_epoch(assignment, world_size=1, window=0))
    consumed, done = [], []
    for count, steps in past:
        plan = plan_epoch(assignment, world_size=count, window=window, consumed=consumed)
        steps = min(steps, plan.steps)
        done += plan.order[:steps].flatten().tolist()
        consumed.append((count, steps))
    left = indices(plan_epoch(assignment, world_size=world_size, window=window, consumed=consumed))
    assert not set(done) & set(left)
    assert set(done) | set(left) <= set(everything)
    assert len(everything) - len(done) - len(left) < world_size


@given(tables, ranks, windows, st.integers(0, 10))
@settings(deadline=None)
def test_resuming_at_any_step_goes_on_with_the_same_micro_batches(clips, world_size, window, step):
    plan = plan_epoch(assign(clips, RULES, 7, 0), world_size=world_size, window=window)
    for rank in range(world_size):
        assert plan.for_rank(rank, step) == plan.for_rank(rank)[step:]


def test_a_window_permutes_the_same_micro_batches_and_evens_out_their_cost():
    rng = np.random.default_rng(0)
    clips = SimpleNamespace(
        num_frames=rng.integers(18, 60, 4000), height=np.full(4000, 240), width=np.full(4000, 426)
    )
    assignment = assign(clips, RULES, 7, 0)
    plain = plan_epoch(assignment, world_size=4, window=0)
    balanced = plan_epoch(assignment, world_size=4, window=8)
    assert sorted(indices(plain)) == sorted(indices(balanced))
    first = slice(0, 8)
    assert sorted(plain.order[first].flatten()) == sorted(balanced.order[first].flatten())

    def evenness(plan):
        tokens = np.array(
            [[batch.bucket.tokens for batch in plan.step(i)] for i in range(plan.steps)]
        )
        return (tokens.mean(1) / tokens.max(1)).mean()

    assert evenness(balanced) > 0.97 > evenness(plain)


def test_without_balance_an_epoch_has_the_published_steps_and_shapes(golden):
    facts = json.loads((golden / "sampler_world4.json").read_text())
    table = pd.read_csv(golden / "sampler_world4.csv")
    clips = SimpleNamespace(
        **{name: table[name].to_numpy() for name in ("num_frames", "height", "width")}
    )
    columns = [1, 51, 102]
    config = facts["bucket_config"]
    keep, sizes = {}, {}
    for name, row in config.items():
        cells = [row[str(frames)] for frames in columns if str(frames) in row]
        keep[name] = [tuple(p) if isinstance(p, list) else p for p, _ in cells]
        sizes[name] = [size for _, size in cells]
    rules = bucket_rules(columns, sizes, keep)
    count = sum(17 if rule.resolution != "256" else 40 for rule in rules)
    for epoch, published in facts["epochs"].items():
        draw = reference_draw(facts["seed"], int(epoch), count)
        assignment = assign(clips, rules, facts["seed"], int(epoch), draw)
        plan = plan_epoch(assignment, world_size=4, window=0)
        shapes = Counter(
            f"{b.bucket.frames}-{b.bucket.height}-{b.bucket.width}x{len(b.rows)}"
            for rank in range(4)
            for b in plan.for_rank(rank)
        )
        expected = Counter(
            f"{batch[0].partition('-')[2]}x{len(batch)}"
            for rank in published["ranks"]
            for batch in rank
        )
        assert plan.steps == len(published["ranks"][0])
        assert sum((shapes - expected).values()) < 4  # which ones are left over is drawn
