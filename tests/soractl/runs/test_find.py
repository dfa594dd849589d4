import pytest

from soractl.errors import SoractlError
from soractl.queue.record import JobRecord, write_record
from soractl.remote.nodes import Node
from soractl.runs.find import find_run, run_of_checkpoint
from soractl.runs.record import node_as_json
from soractl.runs.start_lock import start_lock
from trainer.atomic_files import write_json
from trainer.run_dir import RunDir, create_run


def attempt_on(run, *nodes):
    attempt = run.new_attempt()
    values = [{**node_as_json(node), "ranks": 2} for node in nodes]
    ssh = {"user": "me"}
    write_json(
        attempt.plan, {"run_id": str(run.path), "nodes": values, "ssh": ssh, "started_unix_s": 5}
    )
    return attempt


def test_latest_passes_over_runs_that_never_began(root):
    assert find_run(root, "latest").name == "003-smoke"  # none has begun
    attempt_on(RunDir(root / "001-stage1"), Node("n1"))
    RunDir(root / "002-stage2").new_attempt()  # cut off before its plan was written
    assert find_run(root, "latest").name == "001-stage1"
    with start_lock(RunDir(root / "002-stage2")):
        assert find_run(root, "latest").name == "002-stage2"


def test_a_run_that_has_only_a_checkpoint_may_be_the_latest(root, save_checkpoint):
    save_checkpoint(RunDir(root / "002-stage2"), 5)
    assert find_run(root, "latest").name == "002-stage2"


@pytest.mark.parametrize("name", ["latest", "3", "003", "003-smoke"])
def test_a_run_is_found_by_whatever_it_is_called(root, name):
    assert find_run(root, name).path == root / "003-smoke"


def test_a_run_is_found_by_its_folder(root, tmp_path_factory):
    assert find_run(tmp_path_factory.mktemp("other"), str(root / "001-stage1")).name == "001-stage1"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("003-smok", "did you mean 003-smoke?"),
        ("9", "the newest are: 001-stage1, 002-stage2, 003-smoke"),
    ],
)
def test_an_unknown_run_is_exit_code_6_with_a_suggestion(root, name, hint):
    with pytest.raises(SoractlError) as caught:
        find_run(root, name)
    assert (caught.value.exit_code, caught.value.hint) == (6, hint)


def test_no_run_at_all_is_exit_code_6(tmp_path):
    with pytest.raises(SoractlError, match="there is no run") as caught:
        find_run(tmp_path, "latest")
    assert caught.value.exit_code == 6


def test_a_checkpoint_knows_its_run(root):
    run = find_run(root, "2")
    assert run_of_checkpoint(run.checkpoints_folder / "epoch0-global_step5") == run
    assert run_of_checkpoint(root / "x/checkpoints/epoch0-global_step5") is None


def test_latest_is_also_a_run_that_waits_in_the_queue(tmp_path):
    waiting = create_run(tmp_path, "smoke")
    write_record(waiting.new_attempt(), JobRecord(job_id=12))
    create_run(tmp_path, "smoke")  # began nothing
    assert find_run(tmp_path, "latest") == waiting
