import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from soractl.errors import SoractlError
from soractl.launch.start_point import StartPoint, for_launch, for_resume, from_checkpoint
from trainer.atomic_files import write_json
from trainer.config import load_stage
from trainer.run_dir import create_run

SMOKE = load_stage("smoke", folder=Path(__file__).parent.parent.parent.parent / "configs").config
AFTER_STAGE1 = replace(SMOKE, after="stage1")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def run_with(save_checkpoint):
    def make(root, stage, *steps):
        run = create_run(root, stage)
        write_json(run.run_json, {"stage": stage})
        for step in steps:
            save_checkpoint(run, step)
        return run

    return make


def launch(root, config, init_from=None):
    return for_launch(config, root, root.parent, init_from)


def test_a_stage_that_comes_after_nothing_starts_fresh(root):
    assert launch(root, SMOKE) == StartPoint("fresh")


def test_a_stage_starts_from_the_newest_run_of_the_stage_before_that_has_a_checkpoint(
    root, run_with
):
    run_with(root, "stage1", 5)
    second = run_with(root, "stage1", 10, 20)
    run_with(root, "stage1")
    run_with(root, "stage2", 30)
    expected = second.checkpoints_folder / "epoch0-global_step20"
    assert launch(root, AFTER_STAGE1) == StartPoint("init_from", expected)


def test_a_missing_run_or_checkpoint_of_the_stage_before_is_named(root, run_with):
    assert launch(root, AFTER_STAGE1).missing == (
        f"a complete checkpoint of stage1 (looked at: no run of stage1 in {root}/)"
    )
    run_with(root, "stage1")
    assert launch(root, AFTER_STAGE1).missing == (
        "a complete checkpoint of stage1 (looked at: 001-stage1)"
    )


def test_named_weights_come_before_the_stage_before(root, run_with):
    run = run_with(root, "stage1", 5)
    weights = root.parent / "weights.pth"
    weights.touch()
    assert launch(root, AFTER_STAGE1, "weights.pth") == StartPoint("init_from", weights)
    newest = run.checkpoints()[-1].path
    assert launch(root, SMOKE, str(run.path)) == StartPoint("init_from", newest)
    assert launch(root, SMOKE, str(newest)) == StartPoint("init_from", newest)


def test_a_folder_of_the_reference_is_taken_wherever_it_lies_and_one_of_many_must_be_named(
    root, tmp_path
):
    experiment = tmp_path / "checkpoints"
    for number, name in enumerate(("epoch4-global_step2210", "epoch0-global_step99")):
        (experiment / name / "model").mkdir(parents=True)
        os.utime(experiment / name, (number, number))
    named = experiment / "epoch4-global_step2210"
    assert launch(root, SMOKE, str(named)) == StartPoint("init_from", named)
    assert launch(root, SMOKE, str(experiment)).missing == (
        f"the checkpoint's name: {experiment} holds several, the newest is "
        f"{experiment}/epoch0-global_step99"
    )


def test_the_weights_that_a_stage_names_must_be_there(root):
    config = replace(SMOKE, init_from="weights.pth")
    missing = f"{root.parent}/weights.pth does not exist"
    assert launch(root, config) == StartPoint("init_from", missing=missing)


def test_a_repository_is_left_for_the_ranks_to_find_but_a_missing_file_is_not_one(root):
    repository = "hpcai-tech/OpenSora-STDiT-v3"
    assert launch(root, SMOKE, repository) == StartPoint("init_from", Path(repository))
    root.mkdir()
    for missing in ("weights/stdit3.pth", "weights/model.safetensors", f"{root.name}/007-smoke"):
        assert launch(root, SMOKE, missing).missing == f"{root.parent}/{missing} does not exist"


def test_averages_are_taken_where_they_are_asked_for(root, run_with):
    ours = run_with(root, "stage1", 5).checkpoints()[-1].path
    (ours / "ema").mkdir()
    theirs = root.parent / "epoch0-global_step100"
    (theirs / "model").mkdir(parents=True)
    (theirs / "ema.pt").touch()
    for config, init_from, expected in (
        (SMOKE, str(ours), ours / "ema"),
        (SMOKE, str(theirs), theirs / "ema.pt"),
        (AFTER_STAGE1, None, ours / "ema"),
    ):
        start = for_launch(config, root, root.parent, init_from, ema=True)
        assert start == StartPoint("init_from", expected)
    (ours / "ema").rmdir()
    start = for_launch(SMOKE, root, root.parent, str(ours), ema=True)
    assert start.missing == f"averages in {ours}: neither ema/ nor ema.pt"
    assert for_launch(SMOKE, root, root.parent, "nothing", ema=True) == launch(
        root, SMOKE, "nothing"
    )
    with pytest.raises(SoractlError, match="starts from random weights"):
        for_launch(SMOKE, root, root.parent, None, ema=True)


def test_a_copy_of_the_averages_alone_has_no_weights_to_start_from(root, run_with):
    [checkpoint] = run_with(root, "stage1", 5).checkpoints()
    manifest = replace(checkpoint.manifest, left_out=("model", "optimizer"))
    write_json(checkpoint.path / "checkpoint.json", asdict(manifest))
    assert launch(root, SMOKE, str(checkpoint.path)).missing == (
        f"the weights in {checkpoint.path}, a copy without them; `--ema` takes its averages"
    )


def test_a_half_written_checkpoint_gives_no_weights(root, run_with):
    run = run_with(root, "stage1")
    half = run.checkpoints_folder / "epoch0-global_step7"
    half.mkdir()
    assert launch(root, SMOKE, str(half)).missing == (f"{half} is not complete: no checkpoint.json")
    assert launch(root, SMOKE, str(run.path)).missing == f"{run.path} has no complete checkpoint"


def test_resume_passes_over_what_is_newer_and_not_complete(root, run_with):
    run = run_with(root, "stage1", 5, 10, 20, 30)
    (run.checkpoints_folder / "epoch0-global_step30/checkpoint.json").unlink()
    (run.checkpoints_folder / "epoch0-global_step20/weights").write_text("12")
    (run.checkpoints_folder / "epoch0-global_step5/weights").unlink()
    folder = run.checkpoints_folder
    assert for_resume(run) == StartPoint(
        "resume",
        folder / "epoch0-global_step10",
        passed_over={
            folder / "epoch0-global_step20": "weights has 2 of 4 bytes",
            folder / "epoch0-global_step30": "no checkpoint.json",
        },
    )


def test_a_run_without_a_complete_checkpoint_cannot_be_resumed(root, run_with):
    run = run_with(root, "stage1")
    with pytest.raises(SoractlError, match="is empty") as caught:
        for_resume(run)
    assert caught.value.exit_code == 6
    (run.checkpoints_folder / "epoch0-global_step30").mkdir()
    with pytest.raises(SoractlError) as caught:
        for_resume(run)
    assert caught.value.message == (
        f"{run.path} has no complete checkpoint: epoch0-global_step30: no checkpoint.json"
    )


def test_a_named_checkpoint_must_be_complete(root, run_with):
    run = run_with(root, "stage1", 5)
    path = run.checkpoints()[0].path
    assert from_checkpoint(path) == StartPoint("resume", path)
    (path / "weights").unlink()
    with pytest.raises(SoractlError) as caught:
        from_checkpoint(path)
    assert (caught.value.exit_code, caught.value.message) == (
        6,
        f"{path} is not a complete checkpoint: weights is missing",
    )


def test_a_checkpoint_that_does_not_exist_is_refused_with_the_newest_that_does(root, run_with):
    run = run_with(root, "stage1", 5)
    missing = run.checkpoints_folder / "epoch9-global_step9"
    with pytest.raises(SoractlError) as caught:
        from_checkpoint(missing)
    newest = f"the newest complete checkpoint is {run.checkpoints()[0].path}"
    refused = caught.value
    assert (refused.exit_code, refused.message, refused.hint) == (
        6,
        f"{missing} does not exist",
        newest,
    )
