import json
import re
import signal
import subprocess

import pytest

from soractl.checkpoints.manage import Rule, prune, verify
from soractl.errors import SoractlError
from soractl.launch.start_point import for_resume
from tests.missing import give_up
from tests.soractl.sync.copying import (
    COPIED,
    Lab,
    assert_copied,
    incoming,
    names,
)
from tests.waiting import wait_for
from trainer.run_dir import RunDir


def test_the_head_nodes_newest_run_comes_here_without_its_optimizer(lab, save_weights):
    lab.run_at(lab.there / "runs")
    run = lab.run_at(lab.there / "runs", "stage2")
    for step in (5, 10, 7):
        save_weights(run, step)
    (run.checkpoints_folder / "epoch0-global_step12").mkdir()
    stdout, stderr = lab.sync()
    copy = lab.copy_of(run)
    assert_copied(run, copy)
    assert (
        copy.run_json.read_bytes(),
        copy.config_json.read_bytes(),
        copy.metrics.read_bytes(),
    ) == (
        run.run_json.read_bytes(),
        run.config_json.read_bytes(),
        run.metrics.read_bytes(),
    )
    assert re.sub(r"in .*", "in T", stdout).splitlines() == [
        *(f"copied {copy.checkpoints_folder}/epoch0-global_step{step}" for step in (10, 7, 5)),
        "is not complete: epoch0-global_step12: no checkpoint.json",
        "copied 3 checkpoints, 6.1 kB in T",
    ]
    host = lab.node.partition(":")[0]
    first, *progress = stderr.splitlines()  # only a slow copy shows any
    assert first == f"002-stage2 from {host}:{lab.there}/runs to {lab.here}/runs"
    assert all("/s" in line for line in progress)
    assert not list(run.checkpoints_folder.rglob(".read-by-*"))


def test_what_is_there_is_left_alone_and_only_the_new_one_is_copied(lab, save_weights):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    lab.sync()
    [first] = lab.copy_of(run).checkpoints()
    before = first.path.stat().st_mtime_ns, (first.path / "checkpoint.json").stat().st_ino
    assert lab.sync()[0] == "nothing to do; 1 checkpoint there already\n"
    save_weights(run, 6)
    assert "copied 1 checkpoint, 2.0 kB" in lab.sync()[0].splitlines()[-1]
    assert_copied(run, lab.copy_of(run))
    after = first.path.stat().st_mtime_ns, (first.path / "checkpoint.json").stat().st_ino
    assert after == before


def test_a_run_here_goes_to_a_node(lab, save_weights):
    run = lab.run_at(lab.here / "runs")
    save_weights(run, 5)
    save_weights(run, 6)
    target = f"{lab.node}:{lab.there}/new/archive"
    lab.sync("1", "--to", target)
    copy = RunDir(lab.there / "new/archive" / run.name)
    assert_copied(run, copy)
    assert lab.sync("001-stage1", "--to", target)[0] == (
        "nothing to do; 2 checkpoints there already\n"
    )


@pytest.mark.parametrize("push", [False, True])
def test_the_optimizer_can_be_added_later_and_the_averages_can_come_alone(lab, save_weights, push):
    run = lab.run_at((lab.here if push else lab.there) / "runs")
    save_weights(run, 5)
    copy = RunDir(lab.there / "copy" / run.name) if push else lab.copy_of(run)
    endpoints = ["--to", f"{lab.node}:{lab.there}/copy"] if push else []
    lab.sync("latest", *endpoints, "--ema-only")
    assert_copied(run, copy, ("ema",))
    assert copy.checkpoints()[0].manifest.left_out == ("model", "optimizer")
    ema = (copy.checkpoints()[0].ema / "model.safetensors").stat().st_ino
    lab.sync("latest", *endpoints, "--with-optimizer")
    assert_copied(run, copy, ("model", "ema", "optimizer"))
    assert copy.checkpoints()[0].manifest == run.checkpoints()[0].manifest
    assert (copy.checkpoints()[0].ema / "model.safetensors").stat().st_ino == ema
    assert "nothing to do" in lab.sync("latest", *endpoints)[0]


def test_a_copy_without_optimizer_is_refused_for_a_resume(lab, save_weights):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    lab.sync()
    [copied] = lab.copy_of(run).checkpoints()
    with pytest.raises(SoractlError) as refused:
        for_resume(lab.copy_of(run))
    assert str(refused.value) == (
        f"{copied.path} holds no optimizer, so nothing can resume from it"
    )
    assert for_resume(run).path == run.checkpoints()[0].path


@pytest.mark.parametrize("push", [False, True])
def test_a_step_that_was_saved_anew_replaces_its_copy(lab, save_weights, push):
    run = lab.run_at((lab.here if push else lab.there) / "runs")
    endpoints = ["--to", f"{lab.node}:{lab.there}/copy"] if push else []
    copy = RunDir(lab.there / "copy" / run.name) if push else lab.copy_of(run)
    for _ in range(2):
        save_weights(run, 5)
        lab.sync("latest", *endpoints)
        assert_copied(run, copy)


def test_the_plan_says_every_command_and_copies_nothing(lab, save_weights):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    stdout, _ = lab.sync("--dry-run", "--bwlimit", "100")
    lines = stdout.splitlines()
    assert (lines[0], lines[-1], len(lines)) == (
        "would copy epoch0-global_step5  2.0 kB",
        "would copy 1 checkpoint, 2.0 kB",
        4,
    )
    assert not (lab.here / "runs").exists()
    for line in lines[1:3]:
        (lab.here / "runs" / run.name / "checkpoints").mkdir(parents=True, exist_ok=True)
        subprocess.run(["sh", "-c", line], check=True, capture_output=True)
    assert sorted(incoming(lab.copy_of(run))) == [
        f".incoming-epoch0-global_step5/{name}" for name in COPIED
    ]
    values = json.loads(lab.sync("--dry-run", "--json")[0])
    assert values["planned"] == [{"checkpoint": "epoch0-global_step5", "bytes": 2020}]
    assert [argv[0] for argv in values["commands"]] == ["rsync", "rsync"]


@pytest.mark.parametrize("push", [False, True])
def test_a_file_that_is_not_what_the_manifest_says_is_never_published(lab, save_weights, push):
    run = lab.run_at((lab.here if push else lab.there) / "runs")
    endpoints = ["--to", f"{lab.node}:{lab.there}/copy"] if push else []
    copy = RunDir(lab.there / "copy" / run.name) if push else lab.copy_of(run)
    save_weights(run, 5)
    save_weights(run, 6)
    broken = run.checkpoints()[0].model / "model 1.safetensors"
    good = broken.read_bytes()
    broken.write_bytes(bytes(len(good)))
    stdout, _ = lab.sync("latest", *endpoints, code=1)
    assert stdout.splitlines()[1] == (
        "epoch0-global_step5: model/model 1.safetensors is damaged at the source"
    )
    assert names(copy) == ["epoch0-global_step6"]
    broken.write_bytes(good)
    lab.sync("latest", *endpoints)
    assert_copied(run, copy)


def test_a_full_destination_is_an_error_and_the_next_sync_goes_on(lab, save_weights):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5, 3_000_000)
    save_weights(run, 6, 3_000_000)
    (lab.here / "runs").mkdir()
    small = f"mount -t tmpfs -o size=4500k none {lab.here}/runs && "
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*prefix, f"{small} true"], capture_output=True).returncode:
        give_up("no mount namespaces")
    script = f'{small} "$@"; code=$?; ls runs/*/checkpoints >&2; exit $code'
    stdout, stderr = lab.sync(prefix=[*prefix, script, "sh"], code=1)
    assert stdout == ""
    assert [line for line in stderr.splitlines()[1:] if "/s" not in line] == [
        f"error: no space left on {lab.here}/runs/{run.name}/checkpoints/"
        ".incoming-epoch0-global_step5",
        "hint: what was copied stays for the next sync; `soractl ckpt prune` makes room",
        "epoch0-global_step6",
    ]
    lab.sync()
    assert_copied(run, lab.copy_of(run))


def test_a_node_that_takes_another_cipher_alone_is_copied_from_too(
    tmp_path, start_sshd, save_weights
):
    server = start_sshd("127.0.77.2", "Ciphers aes256-ctr")
    lab = Lab(tmp_path, server)
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    lab.sync()
    assert_copied(run, lab.copy_of(run))


def test_nothing_to_copy_from_is_exit_code_6(lab):
    assert "there is no run in" in lab.sync(code=6)[1]
    run = lab.run_at(lab.there / "runs")
    assert "has no complete checkpoint: none at all" in lab.sync(code=6)[1]
    (run.checkpoints_folder / "epoch0-global_step5").mkdir()
    assert "epoch0-global_step5: no checkpoint.json" in lab.sync(code=6)[1]
    assert not (lab.here / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "/proc/foo"], "/proc/foo"),
        (["--to", "file"], "file/001-stage1"),
        (["--from", "file", "--to", "other"], "there is no run in "),
    ],
)
def test_a_source_that_cannot_be_copied_from_is_one_sentence(lab, save_weights, arguments, message):
    save_weights(lab.run_at(lab.here / "runs"), 5)
    (lab.here / "file").touch()
    _, stderr = lab.sync("latest", *arguments, code=6 if "other" in arguments else 1)
    assert "Traceback" not in stderr
    assert message in stderr.splitlines()[-1 if "other" not in arguments else -2]


def test_a_run_that_is_named_by_its_folder_is_taken_from_there(lab, save_weights):
    lab.run_at(lab.here / "runs")
    run = lab.run_at(lab.there / "elsewhere")
    save_weights(run, 5)
    lab.sync(str(run.path))
    assert_copied(run, lab.copy_of(run))


def test_what_is_watched_for_comes_though_a_round_failed(lab, save_weights):
    run = lab.run_at(lab.here / "runs")
    save_weights(run, 5)
    (lab.here / "copy").touch()
    process = lab.start("latest", "--to", "copy", "--watch", "0.2")
    lines = iter(process.stderr.readline, "")
    assert any("trying again in 0.2 s" in line for line in lines)
    (lab.here / "copy").unlink()
    wait_for(lambda: names(RunDir(lab.here / "copy" / run.name)))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130


def test_a_read_only_folder_of_runs_is_copied_from_and_checked_but_not_pruned(
    lab, small_disk, save_weights
):
    disk = small_disk("400k")
    run = lab.run_at(disk)
    for step in (1, 2, 3):
        save_weights(run, step)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    lab.sync("latest", "--from", str(disk))
    assert_copied(run, lab.copy_of(run))
    lab.sync("latest", "--from", str(disk), "--to", f"{lab.node}:{lab.there}/copy")
    assert verify(disk, "1", lambda _: None).exit_code == 0
    with pytest.raises(SoractlError, match="cannot be removed: Read-only file system"):
        prune(disk, "1", Rule(), dry_run=False)
