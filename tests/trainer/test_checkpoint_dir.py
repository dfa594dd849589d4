import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.making import make_manifest, publish_files
from trainer.atomic_files import RunDirError
from trainer.checkpoint_dir import Incomplete, read_checkpoint, superseded
from trainer.manifest import MANIFEST
from trainer.run_dir import create_run


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path / "runs", "stage1")


def save(run, epoch, step, weights=b"weights"):
    return publish_files(run, make_manifest(step, epoch=epoch), [("model/weights", weights)])


def test_a_published_checkpoint_is_read_back_as_it_was_written(run):
    assert run.checkpoints() == []
    published = save(run, 0, 200)
    assert published.name == "epoch0-global_step200"
    assert run.checkpoints() == [published]
    assert published.manifest == make_manifest(200, files=published.manifest.files)
    assert published.model == run.path / "checkpoints" / published.name / "model"
    assert not run.draft_path(0, 200).exists()


def break_in(checkpoint, how):
    path = checkpoint.path / MANIFEST
    values = json.loads(path.read_text())
    if how == "not there":
        path.unlink()
    elif how == "half":
        path.write_text(path.read_text()[:50])
    elif how == "a list":
        path.write_text("[]")
    elif how == "binary":
        path.write_bytes(b"\xff\xfe")
    elif how == "a key less":
        del values["world_size"]
        path.write_text(json.dumps(values))
    elif how == "files of no size":
        path.write_text(json.dumps({**values, "files": {"model/weights": 3}}))
    elif how == "files a list":
        path.write_text(json.dumps({**values, "files": ["model/weights"]}))
    elif how == "file cut":
        (checkpoint.model / "weights").write_bytes(b"wei")
    elif how == "file gone":
        (checkpoint.model / "weights").unlink()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("not there", "no checkpoint.json"),
        ("half", "checkpoint.json is not readable: "),
        ("a list", "checkpoint.json is not readable: "),
        ("binary", "checkpoint.json is not readable: "),
        ("a key less", "checkpoint.json is not readable: "),
        ("files of no size", "checkpoint.json is not readable: "),
        ("files a list", "checkpoint.json is not readable: "),
        ("file cut", "model/weights has 3 of 7 bytes"),
        ("file gone", "model/weights is missing"),
    ],
)
def test_a_folder_that_is_not_complete_is_no_checkpoint_and_says_why(run, how, reason):
    good, bad = save(run, 0, 1), save(run, 0, 2)
    break_in(bad, how)
    assert run.checkpoints() == [good]
    assert list(run.incomplete()) == [bad.path]
    assert run.incomplete()[bad.path].startswith(reason)
    assert read_checkpoint(bad.path) == Incomplete(bad.path, run.incomplete()[bad.path])


def test_what_cannot_be_read_is_neither_complete_nor_none(run):
    older, newest = save(run, 0, 200), save(run, 0, 400)
    (newest.path / MANIFEST).unlink()
    (newest.path / MANIFEST).symlink_to(MANIFEST)  # fails to open, as on a server that is busy
    why = f"{MANIFEST} cannot be read: Too many levels of symbolic links"
    assert read_checkpoint(newest.path) == Incomplete(newest.path, why, is_unknown=True)
    assert (run.checkpoints(), run.incomplete()) == ([older], {newest.path: why})
    with pytest.raises(RunDirError, match="epoch0-global_step400 may be complete: "):
        run.newest_checkpoint()
    (newest.path / MANIFEST).unlink()
    assert run.newest_checkpoint() == older


def test_removal_leaves_nothing_under_the_name_even_after_a_crash_in_one(run):
    checkpoint = save(run, 0, 1)
    (run.checkpoints_folder / f".removed-{checkpoint.name}" / "left").mkdir(parents=True)
    checkpoint.remove()
    assert list(run.checkpoints_folder.iterdir()) == []


@pytest.mark.parametrize("early", [True, False])
def test_a_checkpoint_that_is_removed_while_it_is_looked_at_is_no_fault(run, monkeypatch, early):
    checkpoint, stat = save(run, 0, 1), Path.stat

    def remove_around(path, **options):
        found = None if early else stat(path, **options)
        if path.name == "weights" and checkpoint.path.exists():
            checkpoint.remove()
        return found or stat(path, **options)

    monkeypatch.setattr(Path, "stat", remove_around)
    assert run.checkpoints() == ([] if early else [checkpoint])
    assert run.checkpoints() == []


def test_all_but_the_last_few_and_the_round_ones_are_superseded(run):
    all_of_them = [save(run, 0, step) for step in (50, 100, 150, 200, 250)]

    def steps(keep_last, keep_every_steps):
        old = superseded(all_of_them, keep_last, keep_every_steps)
        return [checkpoint.manifest.global_step for checkpoint in old]

    assert steps(0, 0) == []
    assert steps(2, 0) == [50, 100, 150]
    assert steps(2, 100) == [50, 150]
    assert steps(9, 0) == []
    assert steps(0, 100) == []


def test_a_checkpoint_that_is_read_is_kept_until_the_reader_is_done_or_a_day_has_passed(run):
    checkpoint, _ = save(run, 0, 1), save(run, 0, 2)
    with checkpoint.being_read():
        assert superseded(run.checkpoints(), 1, 0) == []
        [mark] = checkpoint.path.glob(".read-by-*")
        os.utime(mark, (0, 0))
        assert superseded(run.checkpoints(), 1, 0) == [checkpoint]
    assert checkpoint.readers() == []
    assert list(checkpoint.path.glob(".*")) == []


def test_a_checkpoint_that_cannot_be_marked_is_read_without_a_mark(small_disk, save_checkpoint):
    run = create_run(small_disk("400k"), "smoke")
    checkpoint = save_checkpoint(run, 5)
    subprocess.run(["mount", "-o", "remount,ro", run.path.parent], check=True)
    with checkpoint.being_read():
        assert checkpoint.readers() == []
    shutil.rmtree(run.path, ignore_errors=True)
    assert read_checkpoint(checkpoint.path) == checkpoint
