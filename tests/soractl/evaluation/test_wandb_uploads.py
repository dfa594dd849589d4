import json

import pytest

from soractl.cluster.settings import Cluster
from soractl.evaluation.wandb_uploads import Uploads
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult
from trainer.atomic_files import write_json

PLACE = (Node("n1"), "/shared/runs/001-smoke")


class Elsewhere:
    """The trainer's program there: what it answers, and what it was asked."""

    def __init__(self, *answers):
        self.answers, self.asked, self.shown = list(answers), [], []
        self.now_s = 0.0

    def __call__(self, node, request, deadline_s):
        self.asked.append((node.name, request.argv[-3:]))
        answer = self.answers.pop(0)
        if isinstance(answer, str):
            return NodeResult(node, stderr=f"error: {answer}", exit_code=1)
        if isinstance(answer, bytes):
            return NodeResult(node, stdout=answer.decode(), exit_code=0)
        return NodeResult(node, stdout=json.dumps(answer), exit_code=0)

    def uploads(self):
        cluster = Cluster(workdir="/shared", environment="/env/bin")
        return Uploads(self, cluster, self.shown.append, lambda: self.now_s)


@pytest.fixture
def evaluated(run):
    run.evaluation("toy", 100).mkdir(parents=True)
    write_json(run.evaluation_result("toy", 100), {})
    return run


def test_a_run_without_videos_is_not_asked_about(run):
    there = Elsewhere()
    there.uploads().send(run, PLACE)
    assert there.asked == []


def test_videos_are_sent_where_the_run_is_and_only_new_ones_are_asked_about_again(evaluated):
    there = Elsewhere({"sent": 4}, {"sent": 2})
    uploads = there.uploads()
    for _ in range(3):
        uploads.send(evaluated, PLACE)
        there.now_s += 100
    assert there.asked == [("n1", ("-m", "trainer.upload", "/shared/runs/001-smoke"))]
    evaluated.evaluation("toy", 200).mkdir()
    write_json(evaluated.evaluation_result("toy", 200), {})
    uploads.send(evaluated, PLACE)
    assert there.shown == [
        "001-smoke: 4 videos sent to W&B",
        "001-smoke: 2 videos sent to W&B",
    ]


def test_while_a_training_runs_it_is_asked_once_a_minute_and_at_the_last(evaluated):
    running = {"sent": 0, "why": "the training runs, and sends them itself", "again": True}
    there = Elsewhere(running, running, running)
    uploads = there.uploads()
    for _ in range(12):
        uploads.send(evaluated, PLACE)
        there.now_s += 10
    assert (len(there.asked), there.shown) == (2, [])
    uploads.send(evaluated, PLACE, at_last=True)
    assert len(there.asked) == 3
    assert there.shown == [f"001-smoke: no video was sent to W&B: {running['why']}"]


def test_a_failure_is_one_line_and_is_tried_again(evaluated):
    there = Elsewhere("W&B cannot be reached: no route", {"sent": 4})
    uploads = there.uploads()
    for _ in range(2):
        uploads.send(evaluated, PLACE)
        there.now_s += 100
    assert there.shown == [
        "001-smoke: videos were not sent to W&B: W&B cannot be reached: no route",
        "001-smoke: 4 videos sent to W&B",
    ]


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (b'Welcome to n1\n{"sent": 4}\n', "4 videos sent to W&B"),
        (b"", "videos were not sent to W&B: what came is no answer: ''"),
        (b"[4]\n", "videos were not sent to W&B: what came is no answer: '[4]\\n'"),
        (b"Segfault\n", "videos were not sent to W&B: what came is no answer: 'Segfault\\n'"),
    ],
)
def test_the_answer_is_the_last_line_and_without_one_it_is_one_line(evaluated, printed, shown):
    there = Elsewhere(printed)
    there.uploads().send(evaluated, PLACE)
    assert there.shown == [f"001-smoke: {shown}"]
