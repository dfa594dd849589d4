import json
import math
import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.waiting import wait_for
from trainer.config import LogConfig
from trainer.metrics.sinks import open_sinks
from trainer.metrics.wandb_files import records
from trainer.run_dir import RunDir

VALUES = {"loss": 0.5, "loss/bucket/240p-51": 0.25, "ranks/slowest": 3, "grad_norm": math.nan}


def config(**which):
    return LogConfig(
        every_steps=1, **{"tensorboard": False, "wandb": False, **which}, wandb_project="test"
    )


def write(run, config, steps):
    sinks = open_sinks(run, config, {"seed": 1}, global_step=steps[0] - 1)
    for step in steps:
        for sink in sinks:
            sink.write(VALUES, step)
    for sink in sinks:
        sink.close()


def test_a_line_a_step_in_which_only_finite_numbers_are_numbers(tmp_path):
    write(RunDir(tmp_path), config(), [7, 8])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"global_step": step, **VALUES, "grad_norm": None} for step in (7, 8)]


def test_tensorboard_gets_every_value_under_its_name(tmp_path):
    write(RunDir(tmp_path), config(tensorboard=True), [7, 8])
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == set(VALUES)
    found = [(event.step, event.value) for event in events.Scalars("loss/bucket/240p-51")]
    assert found == [(7, 0.25), (8, 0.25)]


def test_tensorboard_lacks_only_the_steps_of_a_full_disk(small_disk):
    disk = small_disk("100k")
    [_, tensorboard] = open_sinks(RunDir(disk), config(tensorboard=True), {}, global_step=0)
    filler = disk / "filler"
    filler.write_bytes(bytes(100 * 2**10))  # a header would not even fit
    with pytest.raises(OSError, match="No space left"):
        tensorboard.write(VALUES, 1)
    filler.unlink()
    tensorboard.write(VALUES, 2)
    filler.write_bytes(bytes(os.statvfs(disk).f_bavail * 4096))
    written = [step for step in range(3, 100) if fits(tensorboard, step)]
    filler.unlink()
    tensorboard.write(VALUES, 100)
    assert len(list((disk / "tensorboard").iterdir())) == 1
    events = EventAccumulator(str(disk / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, *written, 100]
    assert len(written) < 97


def fits(sink, step):
    try:
        sink.write(VALUES, step)
    except OSError:
        return False
    return True


def test_tensorboard_hides_what_an_earlier_attempt_logged_past_its_checkpoint(tmp_path):
    write(RunDir(tmp_path), config(tensorboard=True), [1, 2, 3])
    write(RunDir(tmp_path), config(tensorboard=True), [2, 3])
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]


def test_wandb_has_one_run_for_all_attempts_and_its_steps_are_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for first in (1, 2):  # the second attempt began at a checkpoint before the first one's end
        write(RunDir(tmp_path), config(wandb=True), [first, first + 1])
    name = (tmp_path / "wandb_id").read_text()
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))  # their folders begin with a time
    assert [file.name for file in files] == [f"run-{name}.wandb"] * 2
    # W&B writes beside us. Its own step, in each file, is ours; the second file needs no other
    wait_for(lambda: [rows_in(file) for file in files] == [rows(1, 2), rows(1, 2, 3)])


def rows(*steps):
    """W&B's own step, ours and the loss."""
    return [(step, step, VALUES["loss"]) for step in steps]


def rows_in(file):
    """The same of what an offline file holds."""
    found = []
    for record in records(file.read_bytes()):
        values = {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in record.history.item
        }
        if values:
            found.append((record.history.step.num, values["global_step"], values["loss"]))
    return found
