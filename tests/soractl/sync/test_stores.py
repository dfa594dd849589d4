import pytest

from soractl.checkpoints.verification import TransferEvent
from soractl.errors import SoractlError
from soractl.remote.nodes import Node
from soractl.sync.locations import Location, incoming_path
from soractl.sync.stores import CheckpointListing, LocalStore
from trainer.run_dir import create_run


@pytest.fixture
def store(tmp_path):
    return LocalStore(Location(Node("here", local=True), tmp_path))


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path, "stage1")


def test_a_folder_of_runs_lists_complete_checkpoints_and_the_reason_of_others(
    store, run, save_weights
):
    checkpoint = save_weights(run, 1)
    (run.checkpoints_folder / "epoch0-global_step2").mkdir()
    assert store.runs() == [run]
    assert store.list(run) == CheckpointListing(
        (checkpoint,), {"epoch0-global_step2": "no checkpoint.json"}
    )
    assert store.holds(checkpoint)
    (checkpoint.path / "checkpoint.json").unlink()
    assert not store.holds(checkpoint)


def test_marks_change_with_a_checkpoint_or_a_run_and_not_with_what_is_half_there(
    store, run, save_weights, tmp_path
):
    marks = [store.marks(run)]
    run.draft_path(0, 1).mkdir()
    assert store.marks(run) == marks[-1]
    save_weights(run, 2)
    marks.append(store.marks(run))
    create_run(tmp_path, "stage2")
    marks.append(store.marks(run))
    assert len({*marks}) == 3
    assert store.marks(run) == marks[-1]


def test_what_arrived_damaged_is_deleted_and_what_lies_there_is_only_named(
    store, run, save_weights
):
    checkpoint = save_weights(run, 1)
    name, *_ = checkpoint.manifest.files
    (checkpoint.path / name).write_bytes(b"x")
    files = {name: checkpoint.manifest.files[name]}
    fault = {name: f"has 1 of {files[name]['bytes']} bytes"}
    assert store.damaged(checkpoint.path, files) == fault
    assert (checkpoint.path / name).exists()
    transfer = TransferEvent()
    transfer.mark_complete()
    assert store.broken(checkpoint.path, files, transfer, lambda count: None) == fault
    assert not (checkpoint.path / name).exists()


def test_incoming_folders_that_nobody_wants_any_more_are_deleted(store, run):
    for name in (".incoming-old", "epoch0-global_step1"):
        (run.checkpoints_folder / name).mkdir(parents=True)
    store.prepare_incoming(run, [".incoming-new"])
    names = sorted(path.name for path in run.checkpoints_folder.iterdir())
    assert names == [".incoming-new", "epoch0-global_step1"]


def test_a_folder_that_cannot_be_made_is_one_error(store, run):
    run.checkpoints_folder.rmdir()
    run.checkpoints_folder.write_text("a file")
    with pytest.raises(SoractlError) as refused:
        store.prepare_incoming(run, [".incoming-new"])
    assert refused.value.exit_code == 1
    assert str(refused.value).startswith(str(run.checkpoints_folder))


def test_an_incoming_folder_gets_its_name_with_its_manifest(store, run, save_weights):
    manifest = save_weights(run, 1).manifest
    folder = run.checkpoints()[0].path
    (folder / "checkpoint.json").unlink()
    folder.rename(incoming_path(run, manifest))
    assert run.checkpoints() == []
    store.publish(run, manifest)
    assert [checkpoint.manifest for checkpoint in run.checkpoints()] == [manifest]
