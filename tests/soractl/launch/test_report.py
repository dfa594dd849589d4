import pytest

from soractl.remote.nodes import Node
from soractl.runs.post_mortem import Failure
from soractl.runs.report import next_command, next_lines
from tests.soractl.runs.test_find import attempt_on
from trainer.run_dir import create_run


@pytest.mark.parametrize(
    ("remedy", "command"),
    [
        ({}, "soractl resume 001-stage2"),
        ({"reset_data": True}, "soractl resume 001-stage2 --reset-data"),
        ({"checkpoint": "/runs/a b/c"}, "soractl resume '/runs/a b/c'"),
        ({"settings": {"optim.lr": 5e-05}}, "soractl resume 001-stage2 --set optim.lr=5e-05"),
        ({"encode_features": "/f"}, "soractl data encode stage2 --out /f"),
    ],
)
def test_a_remedy_becomes_a_command(tmp_path, save_checkpoint, remedy, command):
    run = create_run(tmp_path, "stage2")
    save_checkpoint(run, 1)
    assert next_command(run, remedy) == command


def test_a_lost_node_can_be_left_out(tmp_path, save_checkpoint):
    run = create_run(tmp_path, "stage2")
    attempt_on(run, Node("n1"), Node("n2"), Node("n3", user="ana"))
    failure = Failure("n2", "the node does not answer", lost=("n2",))
    assert next_lines(run, failure) == []
    save_checkpoint(run, 1)
    assert next_lines(run, failure) == [
        "next: `soractl resume 001-stage2`",
        "without n2: `soractl resume 001-stage2 --hostfile n1,ana@n3`",
    ]


def test_nothing_can_be_resumed_without_a_checkpoint(tmp_path):
    assert next_command(create_run(tmp_path, "stage2"), {"reset_data": True}) is None
