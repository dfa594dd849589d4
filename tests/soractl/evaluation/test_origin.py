import os

import pytest

from soractl.errors import SoractlError
from soractl.evaluation.origin import LocalRuns, RemoteRuns
from soractl.remote.nodes import this_machine


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

    def make(*, watches=True, source=None):
        source = source or f"{lab.node}:{lab.there}/runs"
        runs = lab.here / "runs"
        return RemoteRuns(source, ["latest"], runs, True, os.environ, KeptLines(), watches=watches)

    return make


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


def test_it_looks_again_after_a_while_and_not_at_every_round(lab, save_weights, there):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    origin = there()
    origin.fetch()
    save_weights(run, 10)
    origin.fetch()
    (copy,) = origin.runs
    assert len(copy.checkpoints()) == 1
    origin._looked_s -= 60
    origin.fetch()
    assert len(copy.checkpoints()) == 2


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
    origin._looked_s = None
    origin.fetch()
    assert run.evaluation_result("low4s", 5).exists()
