import shutil
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from stat import S_IMODE

import pytest

from tests.making import make_manifest, publish_files
from trainer.atomic_files import append_jsonl, read_json, write_json
from trainer.checkpoint_dir import Checkpoint
from trainer.manifest import MANIFEST
from trainer.run_dir import AttemptDir, RunDir, create_run, next_path, runs


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path / "runs", "stage1")


def save(run, epoch, step, weights=b"weights"):
    return publish_files(run, make_manifest(step, epoch=epoch), [("model/weights", weights)])


def test_clips_that_any_rank_of_any_attempt_could_not_read_are_known(run):
    assert run.unreadable_clips() == {}
    first, second = run.new_attempt(), run.new_attempt()
    append_jsonl(first.skipped_clips(0), [{"row": 3, "path": "a.mp4", "reason": "no frames"}])
    append_jsonl(second.skipped_clips(11), [{"row": 1, "path": "b.mp4", "reason": "gone"}])
    with second.skipped_clips(11).open("a") as file:
        file.write('{"row": 2, "pa')
    assert run.unreadable_clips() == {"a.mp4": "no frames", "b.mp4": "gone"}


def test_runs_are_numbered_from_one_whatever_their_stage(tmp_path):
    root = tmp_path / "runs"
    assert next_path(root, "stage1") == root / "001-stage1"
    names = [create_run(root, stage).name for stage in ("stage1", "smoke", "stage1")]
    assert names == ["001-stage1", "002-smoke", "003-stage1"]
    assert next_path(root, "stage2") == root / "004-stage2"
    assert [run.name for run in runs(root)] == names


def test_a_run_that_was_deleted_or_copied_here_gives_its_number_to_no_other(tmp_path):
    for _ in range(2):
        create_run(tmp_path, "stage1")
    shutil.rmtree(tmp_path / "002-stage1")
    assert create_run(tmp_path, "stage2").name == "003-stage2"
    (tmp_path / "1234-stage5").mkdir()
    assert create_run(tmp_path, "stage6").name == "1235-stage6"
    assert [run.name for run in runs(tmp_path)] == [
        *("001-stage1", "003-stage2", "1234-stage5", "1235-stage6")
    ]


def test_what_is_not_a_run_is_not_listed(tmp_path):
    create_run(tmp_path, "stage1")
    (tmp_path / "old-notes").mkdir()
    (tmp_path / "7-seven").mkdir()
    (tmp_path / "002-file").touch()
    assert [run.name for run in runs(tmp_path)] == ["001-stage1"]


def test_eight_processes_that_create_runs_at_once_never_share_a_number(tmp_path):
    code = (
        "import sys; from pathlib import Path; from trainer.run_dir import create_run\n"
        "sys.stdin.read()\n"
        "for _ in range(10): print(create_run(Path(sys.argv[1]), sys.argv[2]).name)"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), f"stage{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    for process in started:
        process.stdin.close()
    names = [name for process in started for name in process.stdout.read().split()]
    for process in started:
        process.stdout.close()
        assert process.wait() == 0
    assert sorted(int(name.split("-")[0]) for name in names) == list(range(1, 81))
    assert {run.name for run in runs(tmp_path)} == set(names)


def test_a_shared_folder_of_runs_is_shared_in_all_its_parts(tmp_path):
    tmp_path.chmod(0o3777)
    create_run(tmp_path, "smoke")
    assert S_IMODE((tmp_path / ".numbers").stat().st_mode) == 0o3777


def test_attempts_are_numbered_in_order_beyond_nine(run):
    assert run.attempts() == []
    made = [run.new_attempt() for _ in range(11)]
    assert [attempt.number for attempt in made] == list(range(1, 12))
    assert run.attempts() == made


def test_threads_that_begin_attempts_at_once_each_get_their_own(run):
    made = []
    threads = [
        threading.Thread(target=lambda: made.extend(run.new_attempt() for _ in range(5)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(attempt.number for attempt in made) == list(range(1, 41))


def test_a_ranks_account_of_its_failure_is_found_earliest_first(run):
    attempt = run.new_attempt()
    assert attempt.rank_failures() == []
    for rank, at_s, own_s in ((0, 5.0, 1.0), (10, 3.0, 9.0), (4, 4.0, 4.5), (2, 4.0, 4.2)):
        account = {"rank": rank, "time_unix_s": at_s, "own_time_unix_s": own_s}
        write_json(attempt.rank_failure(rank), account)
    assert [failure["rank"] for failure in attempt.rank_failures()] == [10, 2, 4, 0]


def test_checkpoints_are_ordered_by_step_and_then_epoch(run):
    for epoch, step in ((1, 1000), (0, 90), (2, 1000), (0, 1000), (1, 200)):
        save(run, epoch, step)
    assert [checkpoint.name for checkpoint in run.checkpoints()] == [
        "epoch0-global_step90",
        "epoch1-global_step200",
        "epoch0-global_step1000",
        "epoch1-global_step1000",
        "epoch2-global_step1000",
    ]


def test_a_step_saved_again_replaces_the_old_one(run):
    save(run, 0, 10, b"old")
    (run.checkpoints_folder / ".replaced-epoch0-global_step10" / "left").mkdir(parents=True)
    new = save(run, 0, 10, b"newer")
    assert (new.model / "weights").read_bytes() == b"newer"
    assert [path.name for path in run.checkpoints_folder.iterdir()] == [new.name]


def test_folders_of_other_names_are_no_checkpoints(run):
    good = save(run, 0, 1)
    for name in (".copying-epoch0-global_step2", "epoch0-global_step2.old", "epoch0", "notes"):
        shutil.copytree(good.path, run.checkpoints_folder / name)
    draft = run.draft_path(0, 3)
    draft.mkdir()
    write_json(draft / MANIFEST, asdict(make_manifest(3)))
    assert run.checkpoints() == [good]
    assert run.incomplete() == {}


def test_a_reader_never_sees_a_checkpoint_before_it_is_complete(run):
    seen, faults, done = [], [], threading.Event()

    def watch():
        while not done.is_set():
            faults.extend(run.incomplete().items())
            seen.append([checkpoint.manifest.global_step for checkpoint in run.checkpoints()])

    watcher = threading.Thread(target=watch)
    watcher.start()
    for step in range(1, 101):
        save(run, 0, step)
    done.set()
    watcher.join()
    assert faults == []
    assert all(steps == list(range(1, len(steps) + 1)) for steps in seen)


def test_a_writer_that_dies_at_any_point_leaves_no_checkpoint(run):
    code = """
import os, sys
from pathlib import Path
from trainer.atomic_files import describe_file
from trainer.manifest import Manifest
from trainer.run_dir import RunDir
run = RunDir(Path(sys.argv[1]))
draft = run.draft_path(0, 7)
draft.mkdir()
(draft / "weights").write_text("w")
def die(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith(sys.argv[2]):
        os._exit(9)
sys.addaudithook(die)
run.publish(draft, Manifest(epoch=0, step=7, global_step=7, world_size=1, consumed=(),
            data_fingerprint="", files={"weights": describe_file(draft / "weights")}))
"""
    for last_name in (MANIFEST, "epoch0-global_step7"):
        done = subprocess.run([sys.executable, "-c", code, str(run.path), last_name])
        assert done.returncode == 9
        assert run.checkpoints() == []
        assert run.incomplete() == {}
        shutil.rmtree(run.draft_path(0, 7))


def test_lines_are_added_and_the_heartbeat_is_replaced(run):
    append_jsonl(run.metrics, [{"a": 1}, {"a": 2}])
    append_jsonl(run.metrics, [{"a": 3}])
    assert run.metrics.read_text() == '{"a": 1}\n{"a": 2}\n{"a": 3}\n'
    run.beat(3, 10, 1)
    run.beat(4, 10, 1)
    beat = read_json(run.heartbeat)
    assert beat.pop("time_unix_s") > 1.6e9
    assert beat == {"global_step": 4, "total_steps": 10, "attempt": 1}


def test_every_path_of_a_run_is_where_the_documents_say():
    run, attempt = RunDir(Path("runs/007-stage2")), AttemptDir(Path("runs/007-stage2/attempts/1"))
    checkpoint = Checkpoint(run.checkpoints_folder / "epoch0-global_step200", make_manifest(200))
    paths = [
        *(run.run_json, run.config_json, run.lock, run.heartbeat, run.metrics, run.tensorboard),
        *(run.samples, run.draft_path(0, 200), checkpoint.model, checkpoint.ema),
        *(checkpoint.optimizer, attempt.plan, attempt.exit, attempt.stopped, attempt.config_json),
        *(attempt.node_script("n1"), attempt.node_log("n1"), attempt.node_exit("n1")),
        *(attempt.skipped_clips(3), attempt.rank_failure(3)),
    ]
    assert [str(path.relative_to(run.path)) for path in paths] == [
        *("run.json", "config.json", ".lock", "heartbeat.json", "metrics.jsonl", "tensorboard"),
        *("samples", "checkpoints/.draft-epoch0-global_step200"),
        *("checkpoints/epoch0-global_step200/model", "checkpoints/epoch0-global_step200/ema"),
        *("checkpoints/epoch0-global_step200/optimizer", "attempts/1/plan.json"),
        *("attempts/1/exit.json", "attempts/1/stopped.json", "attempts/1/config.json"),
        *("attempts/1/n1.sh", "attempts/1/n1.log", "attempts/1/n1.exit"),
        *("attempts/1/skipped_clips-3.jsonl", "attempts/1/rank-3.json"),
    ]
