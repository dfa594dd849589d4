"""A folder that version 0.1.0 wrote, with today's commands: nothing on disk is broken."""

import json
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

RECORDED = Path(__file__).parent.parent / "recorded" / "run-0.1.0" / "run.tar.xz"
ROOT, NODE = "/tmp/rh/old", "vm"  # where it was recorded
RUN = "001-smoke"
CHECKPOINTS = ["epoch0-global_step6", "epoch1-global_step8"]


@pytest.fixture
def recorded(tmp_path):
    """The folder with its run, its clips and its cached features, as if it had been made here."""
    with tarfile.open(RECORDED) as archive:
        archive.extractall(tmp_path, filter="data")
    here = socket.gethostname()
    for file in tmp_path.glob(f"runs/*/attempts/*/{NODE}.*"):
        file.rename(file.with_name(here + file.suffix))
    for file in tmp_path.glob("runs/**/*.json"):
        text = file.read_text().replace(ROOT, str(tmp_path))
        file.write_text(text.replace(f'"{NODE}"', json.dumps(here)))
    (tmp_path / "hostfiles").mkdir()
    (tmp_path / "hostfiles" / "local.toml").write_text("ranks_per_node = 1\n")
    return tmp_path


def run(folder, *arguments, module=None, codes=(0,)):
    start = (
        [sys.executable, "-m", module] if module else [Path(sys.executable).with_name("soractl")]
    )
    command = [*start, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode in codes, done.stdout + done.stderr
    return done


def test_a_run_of_a_former_version_is_shown_whole(recorded):
    status = json.loads(run(recorded, "status", "--json", codes=(0, 1)).stdout)
    shown = [status[key] for key in ("run", "stage", "state", "attempt", "checkpoints")]
    assert shown == [RUN, "smoke", "failed", 4, CHECKPOINTS]
    assert status["first_failure"]["rank"] == 0
    assert "rank 0: resumed from epoch1-global_step8" in run(recorded, "logs", "-n", "500").stdout
    rows = json.loads(run(recorded, "ckpt", "list", "--json").stdout)["checkpoints"]
    assert [(row["name"], row["incomplete"], row["global_step"]) for row in rows] == [
        (CHECKPOINTS[0], None, 6),
        (CHECKPOINTS[1], None, 8),
    ]
    verified = json.loads(run(recorded, "ckpt", "verify", "1", "--json").stdout)
    assert [Path(path).name for path in verified["verified"]] == CHECKPOINTS
    assert verified["broken"] == verified["incomplete"] == {}


def test_nothing_of_a_run_of_a_former_version_is_left_to_stop(recorded):
    assert "nothing of 001-smoke is running" in run(recorded, "kill", "1").stdout


def test_checkpoints_of_a_former_version_are_copied(recorded):
    run(recorded, "sync", RUN, "--to", str(recorded / "archive"))
    copied = recorded / "archive" / RUN / "checkpoints" / "epoch0-global_step6"
    assert (copied / "checkpoint.json").is_file()
    original = recorded / "runs" / RUN / "checkpoints" / "epoch0-global_step6"
    for weights in ("model", "ema"):
        name = f"{weights}/model-00001-of-00001.safetensors"
        assert (copied / name).read_bytes() == (original / name).read_bytes()


@pytest.mark.slow  # a start of a rank
def test_a_run_of_a_former_version_is_resumed(recorded):
    run(recorded, "resume", RUN, "--set", "trainer.max_steps=10", "--set", "optim.grad_clip=1.0")
    rows = (recorded / "runs" / RUN / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["global_step"] for row in rows] == list(range(1, 11))
    assert (recorded / "runs" / RUN / "attempts" / "5" / "exit.json").is_file()


@pytest.mark.slow  # a start of a rank
def test_features_of_a_former_version_are_trained_on(recorded):
    settings = run_settings(recorded) | {"data.features": "features", "trainer.max_steps": "2"}
    options = [f"--set={key}={value}" for key, value in settings.items()]
    run(recorded, "launch", "smoke", *options, "--init-from", f"runs/{RUN}")
    rows = (recorded / "runs" / "002-smoke" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["global_step"] for row in rows] == [1, 2]


@pytest.mark.slow  # loads the networks
def test_a_video_is_sampled_from_a_checkpoint_of_a_former_version(recorded):
    options = ("--frames", "17", "--resolution", "144p", "--prompt", "a rabbit")
    run(recorded, "latest", *options, module="trainer.sample")
    [video] = recorded.glob("runs/*/samples/**/*.mp4")
    assert video.stat().st_size > 0


def run_settings(folder):
    """What was typed with --set when the run was recorded; its start weights are not there."""
    words = json.loads((folder / "runs" / RUN / "run.json").read_text())["command"].split("--set ")
    typed = dict(word.strip().strip("'").split("=", 1) for word in words[1:])
    return {key: value for key, value in typed.items() if key != "init_from"}
