import multiprocessing
import os
import signal
import time

import pytest

from tests.waiting import wait_for
from trainer.atomic_files import append_jsonl, write_json
from trainer.metrics.wandb_files import media_in, records
from trainer.metrics.wandb_videos import EvalUploads
from trainer.run_dir import RunDir


@pytest.fixture
def run(tmp_path, write_video):
    """A run with two evaluated checkpoints of two videos each."""
    run = RunDir(tmp_path / "001-smoke")
    for step in (100, 200):
        folder = run.evaluation("low4s", step)
        folder.mkdir(parents=True)
        for name in ("cat", "dog"):
            write_video(folder / f"{name}.mp4", 4)
        videos = [{"name": f"{name}.mp4", "prompt": f"a {name}"} for name in ("cat", "dog")]
        result = {"preset": "low4s", "global_step": step, "videos": videos}
        write_json(run.evaluation_result("low4s", step), result)
    return run


ALL = {(f"eval_low4s/{name}", step) for name in ("cat", "dog") for step in (100, 200)}


def session_of(run, **settings):
    import wandb

    return wandb.init(
        project="test",
        id="one",
        mode="offline",
        dir=str(run.path),
        settings=wandb.Settings(x_transaction_log_flush_interval=0.5, silent=True),
    )


def attempt(run, rows):
    """An attempt that logs rows of its own while the videos are sent."""
    session = session_of(run)
    uploads = EvalUploads(run, session, every_s=0.1)
    session.define_metric("loss", step_metric="global_step")
    for step in rows:
        session.log({"loss": 1 / step, "global_step": step}, step=step)
        uploads.row_ended()
        time.sleep(0.05)
    uploads.close()
    session.finish()


def start(run, rows):
    """An attempt in a process of its own, as W&B keeps what it once read of the environment."""
    process = multiprocessing.get_context("spawn").Process(target=attempt, args=(run, rows))
    process.start()
    return process


def history(run):
    """(key or loss, step of its axis) of every row in all offline files."""
    found = []
    for file in sorted(run.path.glob("wandb/offline-run-*/*.wandb")):
        for record in records(file.read_bytes()):
            items = {tuple(item.nested_key) or (item.key,) for item in record.history.item}
            found += [key[0] for key in items if key[1:] == ("_type",) or key == ("loss",)]
    return sorted(found)


def axes(run):
    """The axis of every metric that the offline files define."""
    return {
        record.metric.name: record.metric.step_metric
        for file in run.path.glob("wandb/offline-run-*/*.wandb")
        for record in records(file.read_bytes())
        if record.HasField("metric") and record.metric.step_metric
    }


@pytest.mark.slow  # W&B's own process starts and ends twice
def test_each_video_is_in_one_row_of_all_attempts_on_an_axis_of_its_own(run):
    for rows in (range(1, 6), range(4, 8)):
        process = start(run, rows)
        process.join()
        assert process.exitcode == 0
    wait_for(lambda: media_in(run.path / "wandb") == ALL)
    keys = sorted([*(key for key, _ in ALL), *["loss"] * 9])
    wait_for(lambda: history(run) == keys)
    assert axes(run) == {
        "loss": "global_step",
        "eval_low4s/cat": "eval_low4s/global_step",
        "eval_low4s/dog": "eval_low4s/global_step",
    }


@pytest.mark.slow  # W&B's own process starts and ends twice
def test_after_a_kill_what_is_not_on_disk_is_sent_again(run):
    process = start(run, range(1, 1000))
    wait_for(lambda: (run.path / "wandb").exists() and media_in(run.path / "wandb"))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    process = start(run, range(1, 3))
    process.join()
    assert process.exitcode == 0
    wait_for(lambda: media_in(run.path / "wandb") == ALL)
    assert sorted(key for key in history(run) if key != "loss") == sorted(key for key, _ in ALL)


def test_a_half_line_of_the_journal_and_a_damaged_result_are_passed_over(run):
    class Session:
        offline = False

        def __init__(self):
            self.rows = []

        def define_metric(self, name, step_metric):
            pass

        def log(self, row, *, commit):
            self.rows.append(sorted(row))

    append_jsonl(run.sent_evaluations, [{"key": "eval_low4s/cat", "global_step": 100}])
    with run.sent_evaluations.open("a") as file:
        file.write('{"key": "eval_lo')
    run.evaluation_result("low4s", 200).write_text("{")
    session = Session()
    EvalUploads(run, session, every_s=0.1).close()
    assert session.rows == [["eval_low4s/dog", "eval_low4s/global_step"]]
    again = Session()
    EvalUploads(run, again, every_s=0.1).close()
    assert again.rows == []
