import json
import subprocess
import time
from pathlib import Path

import libfaketime
import pytest

from soractl.checkpoints.manage import CheckpointRow, Rule, latest, listing, prune, verify
from soractl.errors import SoractlError
from trainer.atomic_files import write_json
from trainer.run_dir import create_run

FAKETIME = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"


@pytest.fixture
def run(tmp_path, save_weights):
    made = create_run(tmp_path, "stage1")
    write_json(made.run_json, {"stage": "stage1"})
    write_json(made.config_json, {"checkpoint": {"keep_last": 2, "keep_every_steps": 2}})
    for step in (1, 2, 3, 4, 5):
        save_weights(made, step)
    (made.checkpoints_folder / "epoch0-global_step9").mkdir()
    return made


def names(checkpoints):
    return [checkpoint.name for checkpoint in checkpoints]


def test_the_list_has_complete_checkpoints_with_their_facts_and_others_with_the_reason(run):
    with run.checkpoints()[0].being_read():
        rows = listing(run.path.parent, "latest").rows
    [reader] = rows[0].readers
    assert rows[0].age_s is not None
    assert rows[0].age_s < 60
    assert rows[0] == CheckpointRow(
        run.checkpoints()[0].path,
        epoch=0,
        global_step=1,
        size_bytes=4020,
        age_s=rows[0].age_s,
        parts=("ema", "model", "optimizer"),
        readers=(reader,),
    )
    assert [row.global_step for row in rows] == [1, 2, 3, 4, 5, None]
    assert rows[-1] == CheckpointRow(
        run.checkpoints_folder / "epoch0-global_step9", "no checkpoint.json"
    )


def test_the_newest_is_the_last_complete_one(run, tmp_path):
    assert latest(tmp_path, "1").name == "epoch0-global_step5"
    empty = create_run(tmp_path, "stage2")
    with pytest.raises(SoractlError, match="has no complete checkpoint") as nothing:
        latest(tmp_path, empty.name)
    assert nothing.value.exit_code == 6


def test_every_byte_is_read_and_every_kind_of_damage_named(run, tmp_path):
    seen = []
    assert verify(tmp_path, "latest", seen.append).broken == {}
    assert (seen[-1].done, seen[-1].total) == (5 * 4020, 5 * 4020)
    first, second, third, *_ = run.checkpoints()
    (first.model / "index.json").write_bytes(bytes(20))
    changed = verify(tmp_path, "latest", seen.append)
    assert changed.broken == {
        first.name: {"model/index.json": "has another checksum than its manifest"}
    }
    assert changed.exit_code == 1
    assert verify(tmp_path, str(second.path), seen.append).exit_code == 0
    (second.model / "index.json").unlink()
    (third.model / "index.json").write_bytes(bytes(3))
    assert verify(tmp_path, "latest", seen.append).incomplete == {
        second.name: "model/index.json is missing",
        third.name: "model/index.json has 3 of 20 bytes",
        "epoch0-global_step9": "no checkpoint.json",
    }
    with pytest.raises(SoractlError, match="is not a complete checkpoint: model") as bad:
        verify(tmp_path, str(second.path), seen.append)
    assert bad.value.exit_code == 1


def test_pruning_follows_the_runs_own_rule_where_no_option_is_given(run, tmp_path):
    planned = prune(tmp_path, "latest", Rule(), dry_run=True)
    assert names(planned.removed) == ["epoch0-global_step1", "epoch0-global_step3"]
    assert len(run.checkpoints()) == 5
    assert names(prune(tmp_path, "latest", Rule(), dry_run=False).removed) == names(planned.removed)
    assert names(run.checkpoints()) == names(planned.kept)
    prune(tmp_path, "latest", Rule(keep_last=1, keep_every=0), dry_run=False)
    assert names(run.checkpoints()) == ["epoch0-global_step5"]


def test_what_is_being_read_is_not_pruned(run, tmp_path):
    with run.checkpoints()[0].being_read():
        prune(tmp_path, "latest", Rule(1, 0), dry_run=False)
    assert names(run.checkpoints()) == ["epoch0-global_step1", "epoch0-global_step5"]


def test_a_run_without_settings_is_pruned_only_by_a_rule_that_is_given(run, tmp_path):
    run.config_json.unlink()
    with pytest.raises(SoractlError) as unsaid:
        prune(tmp_path, "latest", Rule(keep_last=1), dry_run=False)
    assert (unsaid.value.hint, len(run.checkpoints())) == ("give --keep-every", 5)
    with pytest.raises(SoractlError, match="--keep-last -1 is less than 0"):
        prune(tmp_path, "latest", Rule(-1, 0), dry_run=False)


def test_the_commands_say_what_they_found_and_end_with_its_code(workplace, save_weights):
    run = create_run(workplace.folder / "runs", "stage1")
    write_json(run.run_json, {"stage": "stage1"})
    write_json(run.config_json, {"checkpoint": {"keep_last": 1, "keep_every_steps": 0}})
    first, second = save_weights(run, 1), save_weights(run, 2)
    now = time.time()
    assert workplace.soractl("ckpt", "latest").stdout == f"{second.path}\n"
    listed = workplace.soractl("ckpt", "list").stdout.splitlines()
    assert [line.split()[:5] for line in listed[:2]] == [
        ["CHECKPOINT", "EPOCH", "STEP", "SIZE", "AGE"],
        ["epoch0-global_step1", "0", "1", "4.0", "kB"],
    ]
    assert listed[-1] == "001-stage1: 2 checkpoints, 8.0 kB"
    values = json.loads(workplace.soractl("ckpt", "list", "--json").stdout)
    assert [row["name"] for row in values["checkpoints"]] == [first.name, second.name]
    assert values["checkpoints"][0]["age_s"] < time.time() - now + 60
    assert workplace.soractl("ckpt", "verify").stdout == "2 ok, 0 broken; 8.0 kB read\n"
    (second.ema / "model.safetensors").write_bytes(bytes(1000))
    assert workplace.soractl("ckpt", "verify", code=1).stdout.splitlines() == [
        f"{second.name}: ema/model.safetensors has another checksum than its manifest",
        "1 ok, 1 broken; 8.0 kB read",
    ]
    assert workplace.soractl("ckpt", "prune").stdout.splitlines() == [
        f"removed runs/001-stage1/checkpoints/{first.name}",
        "removed 1 checkpoint, 4.0 kB; kept 1 (the last 1, and what is being read)",
    ]


@pytest.mark.parametrize("ahead", ["+1h", "-1h"])
def test_an_age_follows_from_the_clock_that_dates_the_files(workplace, save_weights, ahead):
    run = create_run(workplace.folder / "runs", "stage1")
    write_json(run.run_json, {"stage": "stage1"})
    save_weights(run, 1)
    wrong = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": ahead, "NO_FAKE_STAT": "1"}
    values = json.loads(workplace.soractl("ckpt", "list", "--json", environ=wrong).stdout)
    assert 0 <= values["checkpoints"][0]["age_s"] < 600


def test_an_age_is_unknown_where_no_file_can_be_dated(small_disk, save_weights):
    disk = small_disk("400k")
    run = create_run(disk, "stage1")
    write_json(run.run_json, {"stage": "stage1"})
    save_weights(run, 1)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    [row] = listing(disk, run.name).rows
    assert (row.global_step, row.age_s) == (1, None)


def test_a_run_without_a_complete_checkpoint_is_not_verified(tmp_path):
    run = create_run(tmp_path, "stage1")
    (run.checkpoints_folder / "epoch0-global_step5").mkdir()
    with pytest.raises(SoractlError) as caught:
        verify(tmp_path, "1", lambda _: None)
    message = "1 has no complete checkpoint; epoch0-global_step5: no checkpoint.json"
    assert (caught.value.exit_code, caught.value.message) == (6, message)
