import os

import pytest

from soractl.errors import SoractlError
from soractl.sync.follow import WHOLE_LOOK_S, Follower
from soractl.sync.plan import SyncOptions, find_endpoints


class Following:
    """A follower of the newest run of a node, whose clock stands still."""

    def __init__(self, lab):
        self.options = SyncOptions(
            source=f"{lab.node}:{lab.there}/runs", destination=str(lab.here / "runs"), ema_only=True
        )
        self.now_s, self.runs, self.seen = 0.0, [], []
        self.follower = Follower(find_endpoints(self.options, os.environ), lambda: self.now_s)

    def look(self):
        """Names of the checkpoints that a look copied; None if it saw nothing new."""
        synced = self.follower.fetch(self.options, lambda measured: None, self._see)
        return synced and [copied.checkpoint.name for copied in synced.copied]

    def _see(self, planned):
        """Keep the run, and the steps of the results and of the checkpoints that are here."""
        copy = planned.copy_of_run
        results = [int(path.parent.name) for path in copy.evaluation_results()]
        steps = [one.manifest.global_step for one in copy.checkpoints()]
        self.runs.append(planned.run.name)
        self.seen.append((results, steps))


@pytest.fixture
def following(lab, monkeypatch):
    monkeypatch.chdir(lab.here)
    monkeypatch.setenv("SORACTL_HOSTFILE", "hostfiles/nodes.txt")
    following = Following(lab)
    with following.follower:
        yield following


def test_a_checkpoint_is_copied_once_and_a_look_at_what_has_not_changed_copies_nothing(
    lab, save_weights, following
):
    run = lab.run_at(lab.there / "runs")
    first = save_weights(run, 5)
    assert following.look() == [first.name]
    assert following.look() == []  # what to compare with is known from here on
    assert following.look() is None
    second = save_weights(run, 10)
    assert following.look() == [second.name]
    assert following.look() is None


def test_others_results_are_here_before_the_checkpoints_and_once_a_minute(
    lab, save_weights, following
):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    results = [run.evaluation_result("low4s", step) for step in (5, 10)]
    results[0].parent.mkdir(parents=True)
    results[0].write_text("{}")
    following.look()
    assert following.seen == [([5], [])]
    results[1].parent.mkdir(parents=True)
    results[1].write_text("{}")
    following.look()
    assert following.seen[-1] == ([5], [5])
    following.now_s = WHOLE_LOOK_S
    following.look()
    assert following.seen[-1] == ([5, 10], [5])


def test_what_is_damaged_is_tried_again_after_a_minute(lab, save_weights, following):
    checkpoint = save_weights(lab.run_at(lab.there / "runs"), 5)
    (file,) = checkpoint.path.glob("ema/*.safetensors")
    content = file.read_bytes()
    file.write_bytes(bytes(len(content)))
    assert [following.look(), following.look(), following.look()] == [[], [], None]
    file.write_bytes(content)
    assert following.look() is None
    following.now_s = WHOLE_LOOK_S
    assert following.look() == [checkpoint.name]


def test_after_a_fault_the_next_look_is_a_whole_one(lab, save_weights, following):
    run = lab.run_at(lab.there / "runs")
    with pytest.raises(SoractlError, match="has no complete checkpoint"):
        following.look()
    checkpoint = save_weights(run, 5)
    assert following.look() == [checkpoint.name]


def test_the_newest_run_is_followed_when_another_begins(lab, save_weights, following):
    save_weights(lab.run_at(lab.there / "runs"), 5)
    following.look()
    following.look()
    other = lab.run_at(lab.there / "runs", "stage2")
    checkpoint = save_weights(other, 7)
    assert following.look() == [checkpoint.name]
    assert following.runs[-1] == other.name
