import json

import pytest

from trainer.atomic_files import read_json, write_json
from trainer.checkpoints.rollback import roll_back_to
from trainer.run_dir import RunDir


@pytest.fixture
def run(tmp_path, save_checkpoint):
    run = RunDir(tmp_path / "001-smoke")
    run.checkpoints_folder.mkdir(parents=True)
    (run.path / "attempts").mkdir()
    for step in (2, 4, 6):
        save_checkpoint(run, step)
    return run


def new_attempt(run):
    attempt = run.new_attempt()
    write_json(attempt.config_json, {"seed": attempt.number})
    return attempt


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_crash_left_of_saving_and_removing_goes(run):
    for name in (".draft-epoch0-global_step8", ".removed-epoch0-global_step1"):
        (run.checkpoints_folder / name / "model").mkdir(parents=True)
    roll_back_to(run, new_attempt(run), 6)
    assert names(run.checkpoints_folder) == [f"epoch0-global_step{step}" for step in (2, 4, 6)]


def test_a_checkpoint_whose_successor_did_not_come_stands_under_its_name_again(run):
    [*_, last] = run.checkpoints()
    last.path.rename(run.checkpoints_folder / f".replaced-{last.name}")
    (run.checkpoints_folder / ".replaced-epoch0-global_step4").mkdir()  # its successor did come
    roll_back_to(run, new_attempt(run), 6)
    assert [checkpoint.path for checkpoint in run.checkpoints()][-1] == last.path
    assert len(names(run.checkpoints_folder)) == 3


def test_what_will_be_made_again_is_set_aside_and_nothing_complete_is_lost(run):
    lines = [json.dumps({"global_step": step, "loss": 1 / step}) + "\n" for step in range(1, 8)]
    run.metrics.write_text("".join(lines) + '{"global_st')
    attempt = new_attempt(run)
    roll_back_to(run, attempt, 4)
    assert names(run.checkpoints_folder) == ["epoch0-global_step2", "epoch0-global_step4"]
    assert names(attempt.path / "superseded_checkpoints") == ["epoch0-global_step6"]
    assert run.metrics.read_text() == "".join(lines[:4])
    aside = attempt.path / "superseded_metrics.jsonl"
    assert aside.read_text() == "".join(lines[4:]) + '{"global_st'


def test_where_nothing_is_left_over_nothing_changes(run):
    run.metrics.write_text('{"global_step": 6}\n')
    attempt = new_attempt(run)
    roll_back_to(run, attempt, 6)
    assert (names(attempt.path), len(run.checkpoints())) == (["config.json"], 3)
    assert run.metrics.read_text() == '{"global_step": 6}\n'


def test_the_settings_of_the_attempt_become_the_runs(run):
    write_json(run.config_json, {"seed": 0})
    roll_back_to(run, new_attempt(run), 6)
    assert read_json(run.config_json) == {"seed": 1}
