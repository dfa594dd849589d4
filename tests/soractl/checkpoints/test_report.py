from pathlib import Path

import pytest

from soractl.checkpoints.adopt import Adoption
from soractl.checkpoints.manage import CheckpointRow, Listing, Pruned, Verified
from soractl.checkpoints.report import (
    adopt_json,
    adopt_lines,
    list_json,
    list_parts,
    prune_json,
    prune_lines,
    verify_json,
    verify_lines,
)
from trainer.config import load_stage
from trainer.run_dir import create_run

FOUND = {"epoch": 0, "step": 9, "global_step": 300, "loaded": {"model": 5}}


@pytest.fixture
def run(tmp_path, save_weights):
    made = create_run(tmp_path, "stage1")
    save_weights(made, 1)
    save_weights(made, 2)
    return made


def test_complete_checkpoints_are_a_table_and_the_others_a_line_with_the_reason(run):
    first, second = run.checkpoints()
    rows = (
        CheckpointRow(first.path, None, 0, 1, 4020, 7200.0, ("ema", "model"), ("sync-n1",)),
        CheckpointRow(second.path, "no checkpoint.json"),
    )
    table, *lines = list_parts(Listing(run, rows))
    assert table.rows == ((first.name, "0", "1", "4.0 kB", "2 h 00 min", "ema model", "sync-n1"),)
    assert lines == [
        f"is not complete: {second.name}: no checkpoint.json",
        "001-stage1: 1 checkpoint, 4.0 kB, 1 not complete",
    ]
    values = list_json(Listing(run, rows))
    assert (values["run"], values["checkpoints"][1]) == (
        "001-stage1",
        {
            "name": second.name,
            "path": str(second.path),
            "incomplete": "no checkpoint.json",
            **dict.fromkeys(("epoch", "global_step", "size_bytes", "age_s")),
            "parts": [],
            "readers": [],
        },
    )


def test_every_broken_file_is_a_line_and_the_bytes_that_were_read_are_counted(run):
    first, second = run.checkpoints()
    verified = Verified(
        (first, second), {first.name: {"model/a": "is missing"}}, {"epoch0-global_step9": "empty"}
    )
    assert verify_lines(verified) == [
        f"{first.name}: model/a is missing",
        "is not complete: epoch0-global_step9: empty",
        "1 ok, 1 broken; 8.0 kB read",
    ]
    assert verify_json(verified) == {
        "verified": [str(first.path), str(second.path)],
        "broken": {first.name: {"model/a": "is missing"}},
        "incomplete": {"epoch0-global_step9": "empty"},
    }


@pytest.mark.parametrize(
    ("rule", "dry_run", "last_line"),
    [
        (
            (2, 0),
            False,
            "removed 1 checkpoint, 4.0 kB; kept 1 (the last 2, and what is being read)",
        ),
        (
            (2, 500),
            True,
            "would remove 1 checkpoint, 4.0 kB; kept 1 "
            "(the last 2 and every 500 steps, and what is being read)",
        ),
        ((0, 0), True, "would remove 1 checkpoint, 4.0 kB; kept 1 (all, and what is being read)"),
    ],
)
def test_pruned_checkpoints_are_shown_with_the_rule(run, rule, dry_run, last_line):
    first, second = run.checkpoints()
    pruned = Pruned(run, (first,), (second,), *rule, dry_run)
    assert prune_lines(pruned)[1:] == [last_line]
    assert prune_json(pruned) == {
        "run": "001-stage1",
        "dry_run": dry_run,
        "keep_last": rule[0],
        "keep_every_steps": rule[1],
        "removed": [first.name],
        "kept": [second.name],
    }


@pytest.mark.parametrize(("is_done", "word"), [(False, "would adopt"), (True, "adopted")])
def test_an_adoption_names_what_it_took_and_what_starts_anew(run, is_done, word):
    config = load_stage("smoke").config
    adoption = Adoption(Path("/there/epoch0-global_step300"), "smoke", config, run, FOUND, is_done)
    folder = run.checkpoints_folder / "epoch0-global_step300"
    assert adopt_lines(adoption) == [
        f"{word} /there/epoch0-global_step300 as {folder}",
        "model: 5 tensors",
        "ema: none, there is no ema.pt",
        "optimizer: starts anew, so `resume` has nothing here to go on with",
        f"next: `soractl launch STAGE --init-from {run.path}`, or a stage that comes after smoke",
    ]
    assert adopt_json(adoption) == {
        "folder": "/there/epoch0-global_step300",
        "run": "001-stage1",
        "stage": "smoke",
        "dry_run": not is_done,
        **FOUND,
    }
