from pathlib import Path

import pytest

from soractl.remote.nodes import Node
from soractl.remote.ssh_command import SshOptions
from soractl.sync.copy import DAMAGED_AT_SOURCE, Synced
from soractl.sync.locations import Location
from soractl.sync.plan import Endpoints, SyncOptions, plan
from soractl.sync.report import as_json, lines, plan_json, plan_lines
from soractl.sync.stores import CheckpointListing
from trainer.run_dir import create_run

HERE = Node("here", local=True)


@pytest.fixture
def planned(tmp_path, save_weights):
    """A plan to copy the second of two checkpoints; a third is not complete."""
    run = create_run(tmp_path, "stage1")
    first, second = save_weights(run, 1), save_weights(run, 2)
    endpoints = Endpoints(
        Location(HERE, tmp_path), Location(Node("far"), Path("/copy")), SshOptions()
    )
    seen = CheckpointListing((first, second), {"epoch0-global_step3": "no checkpoint.json"})
    return plan(endpoints, run, seen, CheckpointListing((first,)), SyncOptions(with_optimizer=True))


def test_a_plan_shows_what_is_copied_how_and_what_is_there_already(planned):
    shown = plan_lines(planned)
    assert shown[:2] == [
        "would copy epoch0-global_step2  4.0 kB",
        "is not complete: epoch0-global_step3: no checkpoint.json",
    ]
    assert [line.partition(" ")[0] for line in shown[2:-1]] == ["rsync", "rsync"]
    assert shown[-1] == "would copy 1 checkpoint, 4.0 kB; 1 checkpoint there already"
    assert plan_json(planned)["commands"] == planned.commands


def test_a_result_counts_what_came_and_names_what_did_not(planned):
    faults = {"epoch0-global_step2": {"model/a": "is missing", "model/b": DAMAGED_AT_SOURCE}}
    synced = Synced(planned, list(planned.copies), ["epoch0-global_step0"], faults, 2.0)
    assert lines(synced) == [
        "copied /copy/001-stage1/checkpoints/epoch0-global_step2",
        "epoch0-global_step0 was removed at the source meanwhile",
        "is not complete: epoch0-global_step3: no checkpoint.json",
        "epoch0-global_step2: model/a is missing; it is copied again next time",
        f"epoch0-global_step2: model/b {DAMAGED_AT_SOURCE}",
        "copied 1 checkpoint, 4.0 kB in 2 s (2.0 kB/s); 1 checkpoint there already, 1 broken",
    ]
    assert as_json(synced) == {
        "run": "001-stage1",
        "source": str(planned.endpoints.source),
        "destination": "far:/copy",
        "planned": [{"checkpoint": "epoch0-global_step2", "bytes": 4020}],
        "planned_bytes": 4020,
        "already_there": ["epoch0-global_step1"],
        "incomplete": {"epoch0-global_step3": "no checkpoint.json"},
        "copied": ["epoch0-global_step2"],
        "gone": ["epoch0-global_step0"],
        "broken": faults,
        "elapsed_s": 2.0,
    }
