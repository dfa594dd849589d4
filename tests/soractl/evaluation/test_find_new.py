import pytest

from soractl.evaluation.find_new import digest_of, find_new, passed_over
from tests.making import make_manifest
from trainer.atomic_files import write_json
from trainer.checkpoint_dir import MANIFEST
from trainer.run_dir import RunDir, create_run


@pytest.fixture
def run(tmp_path):
    run = create_run(tmp_path, "smoke")
    for epoch, step in ((0, 100), (0, 200), (1, 300), (1, 400)):
        draft = run.draft_path(epoch, step)
        draft.mkdir()
        run.publish(draft, make_manifest(step, epoch=epoch))
    return run


def steps(run, **how):
    how = {"newest_first": False, "first_of_epoch": False, **how}
    return [item.checkpoint.manifest.global_step for item in find_new(run, "low4s", "ema", **how)]


def finish(run, step, digest):
    run.evaluation("low4s", step).mkdir(parents=True)
    write_json(run.evaluation_result("low4s", step), {"digest": digest})


def test_complete_checkpoints_come_by_step_or_the_newest_first(run):
    (run.checkpoints_folder / "epoch1-global_step500").mkdir()  # no manifest: not complete
    assert steps(run) == [100, 200, 300, 400]
    assert steps(run, newest_first=True) == [400, 300, 200, 100]


def test_the_first_of_each_epoch_and_the_newest(run):
    assert steps(run, first_of_epoch=True) == [100, 300, 400]


def test_a_result_of_this_very_checkpoint_ends_its_turn(run):
    finish(run, 200, digest_of(run.checkpoints()[1]))
    finish(run, 300, "of a step that was saved anew later")
    assert steps(run) == [100, 300, 400]


def test_copies_without_the_weights_are_left_out(tmp_path):
    run = create_run(tmp_path, "smoke")
    draft = run.draft_path(0, 1)
    draft.mkdir()
    run.publish(draft, make_manifest(1, left_out=("ema", "optimizer")))
    assert steps(run) == []
    assert len(find_new(run, "low4s", "model", newest_first=False, first_of_epoch=False)) == 1


def test_what_is_never_sampled_has_a_reason(run):
    (run.checkpoints_folder / "epoch1-global_step500").mkdir()
    draft = run.draft_path(1, 600)
    draft.mkdir()
    lacking = run.publish(draft, make_manifest(600, left_out=("model", "optimizer")))
    broken = {run.checkpoints_folder / "epoch1-global_step500": "no checkpoint.json"}
    assert passed_over(run, "ema") == broken
    assert passed_over(run, "model") == broken | {lacking.path: "it was copied without `model`"}


def test_what_cannot_be_read_just_now_may_be_new(run):
    busy = run.checkpoints()[0].path / MANIFEST
    busy.unlink()
    busy.symlink_to(MANIFEST)  # fails to open, as on a server that is busy
    assert list(run.incomplete()) == [busy.parent]
    assert passed_over(run, "ema") == {}


def test_a_run_without_checkpoints_has_nothing_new(tmp_path):
    assert steps(RunDir(tmp_path / "001-none"), first_of_epoch=True) == []
