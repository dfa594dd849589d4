import json

from tests.night.ledger import compare, kept_lines
from trainer.run_dir import RunDir

CLIPS = {0: (5, 3), 1: (2,), 2: (9, 8), 3: (1,)}


def test_every_clip_once_is_well_also_in_another_order_and_with_fewer_left_over_than_ranks():
    assert compare([2, 0, 3, 1], CLIPS, 2, is_over=True) == []
    assert compare([2, 0, 3], CLIPS, 2, is_over=True) == []
    assert compare([2], CLIPS, 2, is_over=False) == []


def test_clips_that_come_twice_or_never_are_named():
    assert compare([0, 1, 2, 0, 3], CLIPS, 2, is_over=True) == ["clips [3, 5] came twice"]
    assert compare([0, 1], CLIPS, 2, is_over=True) == ["micro batches [2, 3] never came"]


def attempt_of(run, kind, start, steps):
    attempt = run.new_attempt()
    path = f"checkpoints/epoch0-global_step{start}" if start else None
    attempt.plan.write_text(json.dumps({"start": {"kind": kind, "path": path}}))
    lines = [
        {"global_step": step, "epoch": 0, "micro_batches": [[attempt.number]]} for step in steps
    ]
    attempt.trained.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_steps_that_a_later_attempt_made_again_do_not_count(tmp_path):
    run = RunDir(tmp_path)
    attempt_of(run, "fresh", 0, range(1, 9))
    attempt_of(run, "resume", 8, range(9, 13))
    attempt_of(run, "resume", 4, range(5, 7))  # the checkpoint of step 8 was damaged
    kept = [(line["global_step"], line["micro_batches"]) for line in kept_lines(run)]
    assert kept == [(step, [[1]]) for step in (1, 2, 3, 4)] + [(5, [[3]]), (6, [[3]])]
