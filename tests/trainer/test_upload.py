import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from trainer.atomic_files import write_json
from trainer.config import load_stage
from trainer.metrics.wandb_files import media_of, offline_files
from trainer.metrics.wandb_videos import upload_lock
from trainer.run_dir import create_run
from trainer.settings import dump
from trainer.upload import send_rest


@pytest.fixture
def run(tmp_path, write_video):
    """A training that has ended, with two videos of a checkpoint that nobody has sent."""
    run = create_run(tmp_path / "runs", "smoke")
    write_json(run.config_json, dump(load_stage("smoke", ["log.wandb=true"]).config))
    run.metrics.write_text('{"global_step": 1, "loss": 0.5}\n{"global_step": 2, "loss": 0.25}\n')
    run.wandb_id.write_text("abcd1234")
    write_json(run.new_attempt().exit, {})
    folder = run.evaluation("low4s", 100)
    folder.mkdir(parents=True)
    for name in ("cat", "dog"):
        write_video(folder / f"{name}.mp4", 4)
    videos = [{"name": f"{name}.mp4", "prompt": f"a {name}"} for name in ("cat", "dog")]
    result = {"preset": "low4s", "global_step": 100, "videos": videos}
    write_json(run.evaluation_result("low4s", 100), result)
    return run


def sent(run):
    """The program's answer; it is one line of stdout whatever W&B prints."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-m", "trainer.upload", str(run.path)],
        env={**environ, "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow  # W&B's own process starts and ends
def test_videos_that_came_after_the_end_go_to_the_same_wandb_run_once(run):
    assert sent(run) == {"sent": 2}
    assert sent(run) == {"sent": 0, "why": "all are there", "again": False}
    (file,) = offline_files(run.path / "wandb")
    assert file.name == "run-abcd1234.wandb"
    keys = [("eval_low4s/cat", 100), ("eval_low4s/dog", 100)]
    assert Counter(media_of(file)) == Counter(keys)


def test_a_training_that_runs_sends_them_itself(run):
    run.new_attempt()
    assert send_rest(run)["why"] == "the training runs, and sends them itself"


def test_of_two_programs_one_sends(run):
    with upload_lock(run):
        assert send_rest(run) == {"sent": 0, "why": "another program sends them", "again": True}
    with upload_lock(run) as lock:
        assert lock is not None


def test_a_run_that_does_not_log_to_wandb_has_nothing_to_send(run):
    write_json(run.config_json, dump(load_stage("smoke", ["log.wandb=false"]).config))
    assert send_rest(run)["why"] == "the run does not log to W&B"


PROGRAM = """
import os, sys
from trainer import upload

upload.send_rest = lambda run: os.system("echo words of a process") or {"sent": 2}
upload.main(["/runs/001-smoke"])
"""


def test_what_others_print_is_not_in_the_answer():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (json.loads(done.stdout), done.stderr) == ({"sent": 2}, "words of a process\n")
