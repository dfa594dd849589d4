import json
import math
import re

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.waiting import wait_for
from trainer.config import LogConfig
from trainer.metrics.sinks import open_sinks
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


def test_wandb_has_one_run_for_all_attempts_and_its_steps_are_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for first in (1, 2):  # the second attempt began at a checkpoint before the first one's end
        write(RunDir(tmp_path), config(wandb=True), [first, first + 1])
    name = (tmp_path / "wandb_id").read_text()
    files = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert {file.name for file in files} == {f"run-{name}.wandb"}
    for file in files:  # as what is plotted over, too
        wait_for(lambda file=file: b"global_step" in file.read_bytes())
    # W&B writes beside us; the step that both attempts made is sent once
    wait_for(lambda: sorted(step for file in files for step in steps_in(file)) == [1, 2, 3])


def steps_in(file):
    """The steps of an offline run: a name, then as JSON of one character its value."""
    return {int(step) for step in re.findall(rb"global_step\x82\x01\x01(\d)", file.read_bytes())}
