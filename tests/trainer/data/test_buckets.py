import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from trainer.config import load_stage
from trainer.data.buckets import BucketRule, assign, assign_epoch, bucket_rules


def rules_of(stage):
    buckets = load_stage(stage).config.buckets
    return bucket_rules(buckets.frames, buckets.batch_size, buckets.keep)


def table(*rows):
    frames, height, width = (np.array(column) for column in zip(*rows, strict=True))
    return SimpleNamespace(num_frames=frames, height=height, width=width)


def reference_draw(seed, epoch, buckets):
    """A generator for each clip and rule, as the published assignments were drawn."""

    def draw(number, which, ids):
        seeds = [seed + epoch + int(i) * buckets + number for i in ids]
        return np.array([np.random.default_rng(seed).random(which + 1)[which] for seed in seeds])

    return draw


def names(assignment):
    return [assignment.buckets[i].name if i >= 0 else None for i in assignment.index]


@pytest.mark.parametrize("run", ["stage1", "stage2", "stage3", "stage1_epoch1"])
def test_with_the_published_draws_every_clip_has_its_published_bucket(golden, run):
    facts = json.loads((golden / "bucket_rows.json").read_text())["runs"][run]
    columns = np.load(golden / "bucket_rows.npz")
    clips = SimpleNamespace(
        **{key: columns[key].astype(int) for key in ("num_frames", "height", "width")}
    )
    rules = rules_of(run.partition("_")[0])
    count = len(assign(table((1, 1, 1)), rules, 0, 0).buckets)
    draw = reference_draw(facts["seed"], facts["epoch"], count)
    found = names(assign(clips, rules, facts["seed"], facts["epoch"], draw))
    ids = [
        "/".join(map(str, bucket)) if isinstance(bucket, list) else bucket
        for bucket in facts["bucket_ids"]
    ]
    assert found == [ids[i] if i >= 0 else None for i in columns[run]]


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_hashed_draws_have_the_published_distribution(golden, stage):
    facts = json.loads((golden / "bucket_distribution.json").read_text())
    order = np.load(golden / "bucket_distribution.npz")["order"]
    shapes = np.array(facts["specs_T_H_W"])[order]
    clips = SimpleNamespace(num_frames=shapes[:, 0], height=shapes[:, 1], width=shapes[:, 2])
    found = names(assign(clips, rules_of(stage), 1, 0))
    counts = Counter(zip(order.tolist(), found, strict=True))
    n = facts["rows_per_spec"]
    published = Counter(
        {
            (int(spec), None if bucket == "none" else bucket.replace("|", "/")): rows
            for spec, buckets in facts["runs"][stage]["counts_per_spec"].items()
            for bucket, rows in buckets.items()
        }
    )
    certain = {place: rows for place, rows in published.items() if rows == n}
    assert certain.items() <= counts.items()
    assert counts.keys() == published.keys()  # what has no chance holds nothing
    assert len(certain) > 10
    for place, rows in published.items():
        p, q = rows / n, counts[place] / n
        assert abs(q - p) < 5 * (2 * p * (1 - p) / n) ** 0.5 + 1e-3, place


def test_canonical_order_is_by_pixels_and_then_by_length():
    rules = rules_of("stage1")
    order = [(rule.resolution, rule.frames) for rule in rules]
    assert order[:7] == [
        ("2048", 1), ("1080p", 1), ("1024", 1), ("720p", 1), ("480p", 1), ("512", 1), ("360p", 408),
    ]  # fmt: skip
    assert rules[6] == BucketRule("360p", 408, 0.15, 0.1, 1)


def test_a_clip_must_be_longer_than_its_bucket():
    assert names(assign(table((51, 144, 256), (52, 144, 256)), rules_of("stage1"), 42, 0)) == [
        None,
        "144p/51/0.56",
    ]


def test_a_dropped_length_tries_a_lower_resolution_and_a_missing_one_is_cut():
    sizes = {"240p": [4, 2, 1], "144p": [4, 2, 1]}
    dropped = bucket_rules([1, 17, 34], sizes, {"240p": [1.0, 1.0, 0.0], "144p": [1.0, 1.0, 1.0]})
    missing = bucket_rules([1, 17, 34], sizes, {"240p": [1.0, 1.0], "144p": [1.0, 1.0, 1.0]})
    clip = table((40, 240, 426))
    assert names(assign(clip, dropped, 1, 0)) == ["144p/34/0.56"]
    assert names(assign(clip, missing, 1, 0)) == ["240p/17/0.56"]


def test_a_gap_among_the_lengths_is_no_bucket():
    keep = {"240p": [1.0, 1.0, [0.0, 0.0], 1.0]}
    gap = bucket_rules([1, 17, 34, 51], {"240p": [4, 2, 0, 1]}, keep)
    clips = table((40, 240, 426), (60, 240, 426), (30, 240, 426), (1, 240, 426))
    lengths = [17, 51, 17, 1]
    assert names(assign(clips, gap, 1, 0)) == [f"240p/{frames}/0.56" for frames in lengths]
    without = bucket_rules([1, 17, 51], {"240p": [4, 2, 1]}, {"240p": [1.0, 1.0, 1.0]})
    assert names(assign(clips, gap, 1, 0)) == names(assign(clips, without, 1, 0))


def test_a_stage_may_have_a_gap_among_its_lengths():
    keep = "buckets.keep={144p=[1.0,[0.0,0.0],1.0]}"
    settings = load_stage("smoke", [keep, "buckets.batch_size={144p=[4,0,1]}"]).config
    assigned = assign_epoch(table((20, 144, 256), (40, 144, 256)), settings, 0)
    assert names(assigned) == [None, "144p/34/0.56"]


def test_a_pair_of_chances_may_be_a_list_as_in_json():
    def rules(pair):
        return bucket_rules([1, 51], {"240p": [2, 2]}, {"240p": [1.0, pair]})

    assert rules([1.0, 0.5]) == rules((1.0, 0.5))


def test_draws_depend_on_seed_epoch_and_clip_alone():
    rules = rules_of("stage1")
    rows = [(60 + 10 * i, 720, 1280) for i in range(200)]
    whole = names(assign(table(*rows), rules, 42, 0))
    assert names(assign(table(*rows[:50]), rules, 42, 0)) == whole[:50]
    assert names(assign(table(*rows), rules, 42, 1)) != whole
    assert names(assign(table(*rows), rules, 43, 0)) != whole
