import json
import os
import shutil

import pytest
from typer.testing import CliRunner

from soractl.cli import app
from soractl.errors import ExitCode
from soractl.evaluation.evaluate import EndOfServer, EvalOptions, Server
from soractl.evaluation.origin import LocalRuns
from soractl.evaluation.presets import Preset
from soractl.evaluation.publish import Publisher
from soractl.evaluation.report import evaluated_line
from soractl.evaluation.retries import FIRST_WAIT_S, MOST_TRIES, Retries
from tests.making import publish_again
from trainer.run_dir import RunDir, run_of

TINY = Preset(frames="17", resolution="144p", ratio="9:16", steps=1)


@pytest.fixture
def run(random_checkpoint, tmp_path):
    """A copy of a run with one complete checkpoint."""
    source = run_of(random_checkpoint.path)
    folder = tmp_path / "runs" / source.name
    shutil.copytree(source.path, folder)
    (folder / "run.json").write_text("{}")
    return RunDir(folder)


@pytest.fixture
def options(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog\n")
    return EvalOptions("tiny", TINY, prompts)


def flip_a_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def server_of(options, *runs):
    origin = LocalRuns(runs)
    publisher = Publisher(origin, options.weights)
    return Server(options, origin, publisher, os.environ, lambda reading: None)


def rounds_of(server, count, every_s=3600):
    """Ends of rounds between which the waits of all failures pass."""
    now_s = 0.0
    server.retries = Retries(lambda: now_s)
    for _ in range(count):
        now_s += every_s
        yield from server.round()


def round_of(options, *runs):
    with server_of(options, *runs) as server:
        return list(server.round())


@pytest.mark.slow  # two processes load torch
def test_each_checkpoint_is_sampled_once_and_its_result_comes_last(options, run):
    (end,) = round_of(options, run)
    assert (end.videos, end.reason) == (2, "")
    result = json.loads(run.evaluation_result("tiny", 1).read_text())
    assert (result["global_step"], result["weights"]) == (1, "ema")
    assert [video["prompt"] for video in result["videos"]] == ["a cat", "a dog"]
    assert all((run.evaluation("tiny", 1) / video["name"]).exists() for video in result["videos"])
    assert round_of(options, run) == []
    # a kill between the videos and the result: they are taken as they are
    before = {file: file.stat().st_mtime_ns for file in run.evaluation("tiny", 1).glob("*.mp4")}
    run.evaluation_result("tiny", 1).unlink()
    (end,) = round_of(options, run)
    assert (end.videos, end.reason) == (2, "")
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.slow  # several processes load torch
def test_a_damaged_checkpoint_is_tried_a_few_times_and_the_server_goes_on(options, run):
    (checkpoint,) = run.checkpoints()
    flip_a_bit(checkpoint.path / "ema" / "weights.safetensors")
    with server_of(options, run) as server:
        ends = list(rounds_of(server, MOST_TRIES + 1))
    assert [end.tries_left for end in ends] == [2, 1, 0]
    assert all("is damaged" in end.reason for end in ends)
    assert not run.evaluation_result("tiny", 1).exists()


def test_a_folder_that_cannot_be_written_is_a_failure_of_each_checkpoint(options, run):
    run.evaluations.write_text("no folder")
    with server_of(options, run) as server:
        ends = list(rounds_of(server, MOST_TRIES + 1))
    assert [(end.tries_left, end.videos) for end in ends] == [(2, 0), (1, 0), (0, 0)]
    assert all("Not a directory" in end.reason for end in ends)
    failed = f"{ends[0].item}  failed, %s: {ends[0].reason}"
    assert evaluated_line(ends[0]) == failed % "2 tries left, next in 30 s"
    assert evaluated_line(ends[0], once=True) == failed % "not tried again"


def test_a_checkpoint_that_failed_waits_before_it_is_tried_again(options, run):
    run.evaluations.write_text("no folder")
    with server_of(options, run) as server:
        ends = list(rounds_of(server, 4, every_s=FIRST_WAIT_S / 2))
    assert [end.wait_s for end in ends] == [30.0, 120.0]


def test_a_full_disk_uses_up_no_try_and_lets_the_run_wait(options, run, small_disk):
    disk = small_disk("8k")
    (disk / "filler").write_bytes(bytes(8192))
    run.evaluations.symlink_to(disk)
    with server_of(options, run) as server:
        ends = list(rounds_of(server, 6))
    assert [end.tries_left for end in ends] == [MOST_TRIES] * 6
    assert all("No space left on device" in end.reason for end in ends)
    assert [end.wait_s for end in ends] == [30.0, 120.0, 480.0, 600.0, 600.0, 600.0]


def test_one_look_on_a_full_disk_names_every_checkpoint_that_was_not_sampled(
    options, run, small_disk
):
    (first,) = run.checkpoints()
    for step in (2, 3):
        publish_again(run, first, step)
    disk = small_disk("8k")
    (disk / "filler").write_bytes(bytes(8192))
    run.evaluations.symlink_to(disk)
    words = ["eval", run.name, "--once", "--no-upload", f"--prompts={options.prompts}"]
    result = CliRunner().invoke(app, [*words, f"--runs={run.path.parent}"])
    assert result.exit_code == ExitCode.REFUSED
    assert result.stdout == "0 checkpoints sampled, 3 failed\n"
    (error,) = [line for line in result.stderr.splitlines() if run.name in line]
    named = ", ".join(f"{run.name} step {step}" for step in (1, 2, 3))
    assert error.startswith(f"error: not sampled: {named}: ")
    assert "No space left on device" in error


@pytest.mark.slow  # a process loads torch
def test_prompts_that_cannot_be_sampled_end_the_server_with_one_sentence(options, run):
    options.prompts.write_text('a cat {"reference_path": "none.png", "mask_strategy": "0"}')
    with pytest.raises(EndOfServer, match=r"reference none\.png cannot be read"):
        round_of(options, run)


def test_a_run_and_a_preset_that_do_not_exist_are_one_sentence(tmp_path):
    for words, code in (
        (["none", "--prompts", "p.txt"], ExitCode.NOTHING_SUITABLE),
        (["none", "--prompts", "p.txt", "--preset", "low8s"], ExitCode.BAD_REQUEST),
    ):
        result = CliRunner().invoke(app, ["eval", *words, "--runs", str(tmp_path)])
        assert result.exception.exit_code == code
