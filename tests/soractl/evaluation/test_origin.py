import os
from contextlib import ExitStack

import pytest

from soractl.errors import SoractlError
from soractl.evaluation.origin import LocalRuns, RemoteRuns
from soractl.remote.nodes import this_machine
from tests.waiting import wait_for
from trainer.run_dir import RunDir


class KeptLines:
    """A display that keeps its lines."""

    def __init__(self):
        self.lines = []

    def show(self, measured):
        pass

    def say(self, text):
        self.lines.append(text)


@pytest.fixture
def there(lab, monkeypatch):
    """Runs on the node, as a machine sees them that shares no folder with it."""
    monkeypatch.chdir(lab.here)
    monkeypatch.setenv("SORACTL_HOSTFILE", "hostfiles/nodes.txt")

    def make(*, watches=True, source=None, names=("latest",)):
        source = source or f"{lab.node}:{lab.there}/runs"
        runs = lab.here / "runs"
        origin = RemoteRuns(source, names, runs, True, os.environ, KeptLines(), watches=watches)
        stack.callback(origin.close)
        return origin

    with ExitStack() as stack:
        yield make


def test_runs_here_are_where_they_belong(run):
    here = LocalRuns([run])
    here.fetch()
    here.send(run)
    assert here.runs == (run,)
    assert here.place(run) == (this_machine(), str(run.path))


def test_checkpoints_come_here_and_results_go_back(lab, save_weights, there):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    origin = there()
    origin.fetch()
    (copy,) = origin.runs
    assert copy.path == lab.here / "runs" / run.name
    (checkpoint,) = copy.checkpoints()
    assert checkpoint.manifest.left_out == ("model", "optimizer")
    result = copy.evaluation_result("low4s", 5)
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    origin.send(copy)
    assert run.evaluation_result("low4s", 5).read_text() == "{}"
    node, path = origin.place(copy)
    assert (node.local, path) == (False, str(run.path))


def test_what_is_new_is_copied_at_the_next_look(lab, save_weights, there):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    origin = there()
    origin.fetch()
    save_weights(run, 10)
    origin.fetch()
    (copy,) = origin.runs
    assert len(copy.checkpoints()) == 2


def test_several_checkpoints_are_sampled_once_all_of_them_are_here(lab, save_weights, there):
    run = lab.run_at(lab.there / "runs")
    origin, seen = there(), []
    origin.display.show = lambda _: seen.append((len(origin.runs), len(origin.ready)))
    save_weights(run, 5)
    origin.fetch()
    assert {*seen} == {(1, 1)}
    seen.clear()
    for step in (10, 15):
        save_weights(run, step)
    origin.fetch()
    assert {*seen} == {(1, 0)}
    assert origin.ready == origin.runs


def test_checkpoints_come_and_first_videos_go_back_while_others_are_sampled(
    lab, save_weights, there
):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    origin = there()
    origin.follow(0.05)
    wait_for(lambda: origin.runs and origin.runs[0].checkpoints())
    (copy,) = origin.runs
    save_weights(run, 10)
    wait_for(lambda: len(copy.checkpoints()) == 2)
    video = copy.evaluation("low4s", 5) / "a.mp4"
    video.parent.mkdir(parents=True)
    for file in (video, copy.gallery, copy.gallery_data):
        file.write_text("made")
    origin.show(copy)
    wait_for(run.gallery_data.exists)
    assert (run.evaluation("low4s", 5) / "a.mp4").read_text() == "made"


def test_a_wrong_request_ends_the_wait_and_a_fault_of_the_way_is_shown_once(lab, there):
    lab.run_at(lab.there / "runs")
    origin = there()
    origin.fetch()
    origin.fetch()
    (line,) = origin.display.lines
    assert "has no complete checkpoint" in line
    wrong = there(source=str(lab.here / "runs"))  # which is where the copies go
    wrong.follow(60)
    with pytest.raises(SoractlError, match="source and destination are both"):
        wrong.wait(120)


def test_results_of_a_server_that_was_killed_are_sent_by_the_next_one(lab, save_weights, there):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    there().fetch()
    result = RunDir(lab.here / "runs" / run.name).evaluation_result("low4s", 5)
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    there().fetch()
    assert run.evaluation_result("low4s", 5).read_text() == "{}"


def test_a_run_without_a_checkpoint_is_waited_for_or_with_once_an_error(lab, there):
    lab.run_at(lab.there / "runs")
    origin = there()
    origin.fetch()
    assert origin.runs == ()
    (line,) = origin.display.lines
    assert "has no complete checkpoint" in line
    assert line.endswith("; trying again")
    with pytest.raises(SoractlError, match="has no complete checkpoint"):
        there(watches=False).fetch()


def test_results_that_could_not_be_sent_are_sent_after_a_later_look(lab, save_weights, there):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    origin = there()
    origin.fetch()
    (copy,) = origin.runs
    result = copy.evaluation_result("low4s", 5)
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    run.evaluations.write_text("in the way")
    origin.send(copy)
    assert len(origin.display.lines) == 1
    run.evaluations.unlink()
    origin.fetch()
    assert run.evaluation_result("low4s", 5).exists()


def test_a_fault_of_one_run_is_one_line_while_another_run_is_looked_at(lab, save_weights, there):
    save_weights(lab.run_at(lab.there / "runs"), 5)
    lab.run_at(lab.there / "runs")
    origin = there(names=("1", "2"))
    for _ in range(3):
        origin.fetch()
    (line,) = [one for one in origin.display.lines if "no complete checkpoint" in one]
    assert line.endswith("; trying again")
