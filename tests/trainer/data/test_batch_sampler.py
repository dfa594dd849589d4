import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.data.test_buckets import reference_draw, rules_of
from trainer.data.batch_sampler import (
    NO_BATCH,
    NO_STEP,
    NOT_KEPT,
    TOO_SHORT,
    TOO_SMALL,
    left_out,
    plan_epoch,
)
from trainer.data.buckets import assign, bucket_rules
from trainer.data.costs import work

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
chances = st.sampled_from([0.0, 0.3, 1.0, (1.0, 0.5), (0.5, 0.3)])


@st.composite
def bucket_configs(draw):
    frames = sorted(draw(st.sets(st.sampled_from([1, 17, 34, 51]), min_size=1)))
    names = draw(st.sets(st.sampled_from(["144p", "256", "240p", "360p"]), min_size=1))
    row = {"min_size": len(frames), "max_size": len(frames)}
    keep = {name: draw(st.lists(chances, **row)) for name in sorted(names)}
    sizes = {name: draw(st.lists(st.integers(1, 4), **row)) for name in sorted(names)}
    return bucket_rules(frames, sizes, keep)


ranks = st.integers(1, 5)
windows = st.sampled_from([0, 1, 2, 8])
seconds = st.sampled_from([None, {"144p/17/0.56": 9.0, "240p/1/0.56": 0.1}])


def indices(plan):
    return plan.order.flatten().tolist()


@given(tables, bucket_configs(), ranks, windows, st.integers(0, 3))
@settings(deadline=None)
def test_each_kept_clip_comes_at_most_once_and_all_ranks_have_as_many_steps(
    clips, rules, world_size, window, epoch
):
    assignment = assign(clips, rules, 7, epoch)
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


pasts = st.lists(st.tuples(ranks, st.integers(0, 6)), max_size=3)


@given(tables, bucket_configs(), pasts, ranks, windows, seconds)
@settings(deadline=None)
def test_what_is_left_on_other_numbers_of_ranks_is_exactly_what_was_not_done(
    clips, rules, past, world_size, window, costs
):
    how = {"window": window, "costs": costs}
    assignment = assign(clips, rules, 7, 0)
    everything = indices(plan_epoch(assignment, world_size=1, window=0))
    consumed, done = [], []
    for count, steps in past:
        plan = plan_epoch(assignment, world_size=count, consumed=consumed, **how)
        steps = min(steps, plan.steps)
        done += plan.order[:steps].flatten().tolist()
        consumed.append((count, steps))
    left = indices(plan_epoch(assignment, world_size=world_size, consumed=consumed, **how))
    assert not set(done) & set(left)
    assert set(done) | set(left) <= set(everything)
    assert len(everything) - len(done) - len(left) < world_size


@given(tables, bucket_configs(), ranks, windows, st.integers(0, 10))
@settings(deadline=None)
def test_resuming_at_any_step_goes_on_with_the_same_micro_batches(
    clips, rules, world_size, window, step
):
    plan = plan_epoch(assign(clips, rules, 7, 0), world_size=world_size, window=window)
    for rank in range(world_size):
        assert plan.for_rank(rank, step) == plan.for_rank(rank)[step:]


@pytest.fixture(scope="module")
def assignment():
    rng = np.random.default_rng(0)
    clips = SimpleNamespace(
        num_frames=rng.integers(18, 60, 4000), height=np.full(4000, 240), width=np.full(4000, 426)
    )
    return assign(clips, RULES, 7, 0)


def evenness(plan, cost):
    """Mean over maximum of what the ranks of a step have to do, over all steps."""
    by_bucket = np.array([cost(bucket) if bucket.batch_size else 0 for bucket in plan.buckets])
    costs = by_bucket[plan.bucket_of[plan.order]]
    return costs.mean() / costs.max(axis=1).mean()


def test_a_window_permutes_the_same_micro_batches_and_evens_out_their_cost(assignment):
    plain = plan_epoch(assignment, world_size=4, window=0)
    balanced = plan_epoch(assignment, world_size=4, window=8)
    assert sorted(indices(plain)) == sorted(indices(balanced))
    first = slice(0, 8)
    assert sorted(plain.order[first].flatten()) == sorted(balanced.order[first].flatten())
    assert evenness(balanced, work) > 0.97 > evenness(plain, work)


def test_costs_that_were_measured_decide_what_is_even(assignment):
    work_does_not_tell = {"256/17/0.57": 9.0, "240p/34/0.56": 5.0, "144p/34/0.56": 1.0}
    costs = {bucket.name: 2.0 for bucket in assignment.buckets} | work_does_not_tell
    by_work = plan_epoch(assignment, world_size=4, window=8)
    by_time = plan_epoch(assignment, world_size=4, window=8, costs=costs)
    assert sorted(indices(by_work)) == sorted(indices(by_time))
    unaware, aware = (
        evenness(plan, lambda bucket: costs[bucket.name]) for plan in (by_work, by_time)
    )
    assert aware > 0.92 > 0.85 > unaware


def test_no_rank_has_more_to_do_than_another_over_an_epoch(assignment):
    plan = plan_epoch(assignment, world_size=4, window=8)
    costs = np.array([work(bucket) for bucket in plan.buckets])[plan.bucket_of[plan.order]]
    uneven = costs[np.ptp(costs, axis=1) > 0]
    assert len(uneven) > 100
    share = (uneven == uneven.max(axis=1, keepdims=True)).mean(axis=0)
    assert np.ptp(share) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_192_ranks_wait_for_the_slowest_less_than_a_twentieth_of_the_time(stage):
    clips = 1_300_000
    rng = np.random.default_rng(0)
    shapes = np.array([(1080, 1920), (720, 1280), (1280, 720), (480, 854)])
    size = shapes[rng.choice(4, clips, p=[0.43, 0.45, 0.05, 0.07])]
    table = SimpleNamespace(
        num_frames=rng.lognormal(5, 0.6, clips).clip(30, 4000).astype(int),
        height=size[:, 0],
        width=size[:, 1],
    )
    assignment = assign(table, rules_of(stage), 42, 0)
    plain = plan_epoch(assignment, world_size=192, window=0)
    balanced = plan_epoch(assignment, world_size=192, window=8)
    assert plain.steps == balanced.steps
    assert evenness(plain, work) < 0.88
    assert evenness(balanced, work) > 0.95


def published_clips(epoch):
    """Row, frames, height and width of every clip of an epoch."""
    for rank in epoch["ranks"]:
        yield from (map(int, clip.split("-")) for batch in rank for clip in batch)


@pytest.fixture
def published(golden):
    """The published facts of a sampler, and its assignment of an epoch, drawn as published."""
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

    def assignment(epoch):
        draw = reference_draw(facts["seed"], epoch, count)
        return assign(clips, rules, facts["seed"], epoch, draw)

    return facts, assignment


def test_without_balance_an_epoch_has_the_published_steps_and_shapes(published):
    facts, assignment_of = published
    for number, epoch in facts["epochs"].items():
        assignment = assignment_of(int(number))
        for row, *shape in published_clips(epoch):
            bucket = assignment.buckets[assignment.index[row]]
            assert [bucket.frames, bucket.height, bucket.width] == shape
        plan = plan_epoch(assignment, world_size=facts["world_size"], window=0)
        shapes = Counter(
            f"{b.bucket.frames}-{b.bucket.height}-{b.bucket.width}x{len(b.rows)}"
            for rank in range(4)
            for b in plan.for_rank(rank)
        )
        expected = Counter(
            f"{batch[0].partition('-')[2]}x{len(batch)}"
            for rank in epoch["ranks"]
            for batch in rank
        )
        assert plan.steps == epoch["steps"] == len(epoch["ranks"][0])
        assert len(plan.bucket_of) == epoch["num_batch_total"]
        assert sum((shapes - expected).values()) < 4  # which ones are left over is drawn


def test_a_resumed_epoch_has_the_published_steps_left_and_exactly_their_micro_batches(published):
    facts, assignment_of = published
    assert [resume["epoch"] for resume in facts["resumes"]] == [0, 1]
    for resume in facts["resumes"]:
        epoch, step, ranks = resume["epoch"], resume["step"], resume["world_size_resumed"]
        theirs = facts["epochs"][str(epoch)]["ranks"]
        assert resume["ranks"] == [batches[step:] for batches in theirs]
        assignment = assignment_of(epoch)
        whole = plan_epoch(assignment, world_size=ranks, window=0)
        consumed = [(resume["world_size_saved"], step)]
        left = plan_epoch(assignment, world_size=ranks, window=0, consumed=consumed)
        assert left.steps == len(resume["ranks"][0])
        assert [left.for_rank(rank) for rank in range(ranks)] == [
            whole.for_rank(rank, step) for rank in range(ranks)
        ]
        done = resume["sampler_state"]["last_micro_batch_access_index"]
        assert left.order.size == whole.order.size - done


def table(*rows):
    columns = np.array(rows, dtype=int).T
    return SimpleNamespace(num_frames=columns[0], height=columns[1], width=columns[2])


@given(tables, ranks)
@settings(deadline=None)
def test_every_clip_is_trained_on_or_left_out_for_one_reason(clips, world_size):
    assignment = assign(clips, RULES, 7, 0)
    plan = plan_epoch(assignment, world_size=world_size, window=8)
    trained = sum(len(batch.rows) for step in range(plan.steps) for batch in plan.step(step))
    counts = left_out(clips, assignment, plan)
    assert min(counts.values()) >= 0
    assert sum(counts.values()) + trained == len(clips.num_frames)


def test_a_clip_is_left_out_for_its_own_reason():
    rules = bucket_rules([17], {"144p": [2], "240p": [1]}, {"144p": [1.0], "240p": [0.0]})
    clips = table(
        *[(60, 90, 100)] * 2,  # pixels for no resolution
        *[(17, 144, 256)] * 3,  # frames for no length; as many as a bucket has are too few
        *[(18, 144, 256)] * 5,  # two batches and a half, of which one is left for two ranks
    )
    found = assign(clips, rules, 7, 0)
    one = left_out(clips, found, plan_epoch(found, world_size=1, window=0))
    assert one == {TOO_SMALL: 2, TOO_SHORT: 3, NOT_KEPT: 0, NO_BATCH: 1, NO_STEP: 0}
    three = left_out(clips, found, plan_epoch(found, world_size=3, window=0))
    assert three == {TOO_SMALL: 2, TOO_SHORT: 3, NOT_KEPT: 0, NO_BATCH: 1, NO_STEP: 4}


def test_a_bucket_that_takes_nothing_keeps_no_clip():
    rules = bucket_rules([17], {"144p": [1]}, {"144p": [0.0]})
    assignment = assign(table((60, 144, 256)), rules, 7, 0)
    plan = plan_epoch(assignment, world_size=1, window=8)
    counts = left_out(table((60, 144, 256)), assignment, plan)
    assert (plan.steps, counts[NOT_KEPT], sum(counts.values())) == (0, 1, 1)
