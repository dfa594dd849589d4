import json
import time

import pytest

from tests.trainer import ranks
from tests.trainer.ranks import Rank
from trainer import rank_process
from trainer.atomic_files import write_json
from trainer.config import load_stage
from trainer.run_dir import RunDir, create_run
from trainer.settings import dump


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """A new attempt of a run, of which this process is rank 3."""
    monkeypatch.setenv("RANK", "3")
    return create_run(tmp_path, "smoke").new_attempt()


def failure_of(attempt):
    [found] = attempt.rank_failures()
    assert found.pop("time_unix_s") > 0
    assert found.pop("own_time_unix_s") > 0
    assert found.pop("node")
    return found


def test_a_fault_of_the_user_is_left_for_the_launcher_as_one_sentence(attempt):
    values = json.loads(json.dumps(dump(load_stage("smoke").config)))
    values["optim"]["lrr"] = 1
    write_json(attempt.config_json, values)
    with pytest.raises(SystemExit) as ended:
        rank_process.main(str(attempt.path.parent.parent))
    fault = f"{attempt.config_json}: no setting optim.lrr; did you mean optim.lr?"
    assert ended.value.code == f"error: {fault}"
    assert failure_of(attempt) == {
        "rank": 3,
        "error": fault,
        "remedy": None,
        "traceback": None,
    }


def test_accounts_of_ranks_have_the_time_of_the_folder_that_they_share(attempt, monkeypatch):
    (attempt.path / "now").touch()
    shared_s = (attempt.path / "now").stat().st_mtime
    monkeypatch.setattr("time.time", lambda: shared_s - 3600)  # of this node, an hour late
    with pytest.raises(FileNotFoundError):
        rank_process.main(str(attempt.path.parent.parent))
    [found] = attempt.rank_failures()
    assert abs(found["time_unix_s"] - shared_s) < 1800


def test_a_bug_is_left_with_its_traceback_and_raised(attempt):
    with pytest.raises(FileNotFoundError):
        rank_process.main(str(attempt.path.parent.parent))
    found = failure_of(attempt)
    assert found.pop("traceback").splitlines()[-1] == found["error"]
    assert (found["rank"], found["remedy"]) == (3, None)
    assert found["error"].startswith("FileNotFoundError: ")


def fail_while_a_checkpoint_is_written(group, folder, words, with_all):
    rank = Rank(group, folder)
    rank.train(1)
    if not group.is_first and not with_all:
        time.sleep(1000)  # as a rank that hangs: the other's save lacks its part
    rank.save()
    error = RuntimeError(words)
    rank_process._leave_unfinished_save(rank.saver, error, timeout_s=3600)
    raise error


TIMED_OUT = "[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 60000ms for recv"


@pytest.mark.parametrize(("words", "with_all"), [(TIMED_OUT, False), ("of its own", True)])
def test_a_rank_that_failed_waits_only_for_a_save_that_can_end(tmp_path, words, with_all):
    program = fail_while_a_checkpoint_is_written
    context = ranks.start(2, ranks.in_group, 2, program, (tmp_path, words, with_all))
    first, second = context.processes
    first.join(600)  # Python itself would wait for half an hour
    assert first.exitcode == 1
    second.kill()
    second.join()
    assert len(RunDir(tmp_path).checkpoints()) == with_all
