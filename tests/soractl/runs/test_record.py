import json

import pytest

from soractl.remote.nodes import Node
from soractl.remote.ssh_command import SshOptions
from soractl.runs.find import find_run
from soractl.runs.record import AttemptRecord, read_record, start_step
from tests.soractl.runs.test_find import attempt_on
from trainer.atomic_files import RunDirError, write_json


def test_an_attempts_nodes_are_read_back_and_ranks_are_counted_through(root):
    nodes = (Node("n1", user="u", port=2222, slots=8), Node("n2"), Node("localhost", local=True))
    attempt = attempt_on(find_run(root, "1"), *nodes)
    record = read_record(attempt)
    ssh = SshOptions(user="me")
    assert record == AttemptRecord(str(root / "001-stage1"), nodes, (2, 2, 2), ssh, 5.0)
    assert [record.node_of_rank(rank) for rank in (0, 1, 2, 5)] == ["n1", "n1", "n2", "localhost"]


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


@pytest.mark.parametrize(
    ("start", "step"),
    [
        ({"kind": "fresh", "path": None}, 0),
        ({"kind": "weights", "path": "/x/checkpoints/epoch0-global_step30"}, 0),
        ({"kind": "resume", "path": "/x/checkpoints/epoch0-global_step30"}, 30),
    ],
)
def test_an_attempt_begins_at_its_checkpoints_step(root, start, step):
    attempt = attempt_on(find_run(root, "1"), Node("n1"))
    write_json(attempt.plan, {"start": start})
    assert start_step(attempt) == step


@pytest.mark.parametrize("odd", ["1e300", "1e11", "-1", "NaN", "Infinity", "null"])
def test_a_time_that_cannot_be_is_damage(root, odd):
    attempt = attempt_on(find_run(root, "1"), Node("n1"))
    plan = attempt.plan.read_text()
    write_json(attempt.plan, {**json.loads(plan), "started_unix_s": json.loads(odd)})
    with pytest.raises(RunDirError, match="does not say where it runs"):
        read_record(attempt)


@pytest.mark.parametrize("plan", [{}, {"start": None}, {"start": {"kind": "resume", "path": None}}])
def test_a_start_that_is_not_known_is_damage(root, plan):
    attempt = attempt_on(find_run(root, "1"), Node("n1"))
    write_json(attempt.plan, plan)
    with pytest.raises(RunDirError, match="does not say how it starts"):
        start_step(attempt)
