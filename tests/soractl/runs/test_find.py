import pytest

from soractl.errors import SoractlError
from soractl.remote.nodes import Node
from soractl.remote.ssh_command import SshOptions
from soractl.runs.find import find_run, run_of_checkpoint
from soractl.runs.node_log import log_of
from soractl.runs.record import AttemptRecord, node_as_json, read_record
from trainer.atomic_files import RunDirError, write_json
from trainer.run_dir import create_run


@pytest.fixture
def root(tmp_path):
    for stage in ("stage1", "stage2", "smoke"):
        write_json(create_run(tmp_path, stage).run_json, {"stage": stage})
    return tmp_path


def attempt_on(run, *nodes):
    attempt = run.new_attempt()
    values = [{**node_as_json(node), "ranks": 2} for node in nodes]
    ssh = {"user": "me"}
    write_json(
        attempt.plan, {"run_id": str(run.path), "nodes": values, "ssh": ssh, "started_unix_s": 5}
    )
    return attempt


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


def test_an_attempts_nodes_are_read_back_and_ranks_are_counted_through(root):
    nodes = (Node("n1", user="u", port=2222, slots=8), Node("n2"), Node("localhost", local=True))
    attempt = attempt_on(find_run(root, "1"), *nodes)
    record = read_record(attempt)
    ssh = SshOptions(user="me")
    assert record == AttemptRecord(str(root / "001-stage1"), nodes, (2, 2, 2), ssh, 5.0)
    assert [record.node_of_rank(rank) for rank in (0, 1, 2, 5)] == ["n1", "n1", "n2", "localhost"]


def test_the_log_of_a_node_is_that_of_the_newest_attempt(root):
    run = find_run(root, "1")
    with pytest.raises(SoractlError, match="001-stage1 never started"):
        log_of(run, None)
    attempt_on(run, Node("n1"))
    newest = attempt_on(run, Node("n1"), Node("n2"))
    log, ended = log_of(run, None)
    assert (log, ended()) == (newest.node_log("n1"), False)
    newest.node_exit("n1").write_text("0\n")
    assert ended()
    assert log_of(run, "n2")[0] == newest.node_log("n2")
    with pytest.raises(SoractlError) as caught:
        log_of(run, "n3")
    assert caught.value.message == "001-stage1 does not run on n3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"run_id": ', "is damaged, it is no JSON: Expecting value"),
        ("[]", "is damaged, it holds no JSON object"),
        ("{}", "does not say where it runs: KeyError('nodes')"),
    ],
)
def test_a_damaged_plan_is_named(root, text, message):
    attempt = attempt_on(find_run(root, "1"), Node("n1"))
    attempt.plan.write_text(text)
    with pytest.raises(RunDirError) as caught:
        read_record(attempt)
    assert str(caught.value).startswith(f"{attempt.plan} {message}")
