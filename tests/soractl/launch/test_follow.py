import time
from collections import Counter

import pytest

from soractl.errors import Fault, FaultKind, SoractlError
from soractl.launch import follow as follower
from soractl.launch.follow import NodeWatch, lost_nodes
from soractl.remote.nodes import Node
from soractl.remote.ssh_config import SshOptions
from soractl.runs.node_states import NodeState
from soractl.runs.progress import Progress
from soractl.runs.record import AttemptRecord
from trainer.run_dir import create_run

NODES = (Node("n1"), Node("n2"))
RECORD = AttemptRecord("/runs/001-x", NODES, (2, 2), SshOptions(), 0.0)
NO_STEP_YET = Progress(elapsed_s=1)
FRESH_STEP = Progress(elapsed_s=1, global_step=3, heartbeat_age_s=2)
OLD_STEP = Progress(elapsed_s=1, global_step=3, heartbeat_age_s=31, s_per_step=10.0)

ALIVE = NodeState("n1", processes=5)
GONE = NodeState("n2", processes=0)
ENDED = NodeState("n2", exit_code=0, processes=0)
SILENT = NodeState("n2", fault=Fault(FaultKind.UNREACHABLE, "no route"))


@pytest.mark.parametrize(
    ("answer", "looks", "progress", "lost"),
    [
        (GONE, 0, FRESH_STEP, ["n2"]),
        (ENDED, 0, FRESH_STEP, []),
        (SILENT, 1, NO_STEP_YET, []),
        (SILENT, 2, NO_STEP_YET, ["n2"]),
        (SILENT, 2, OLD_STEP, ["n2"]),
        (SILENT, 2, FRESH_STEP, []),  # a synchronous step needs every node
    ],
)
def test_a_node_is_lost_when_its_processes_are_gone_or_it_is_silent_while_nothing_moves(
    answer, looks, progress, lost
):
    silent = Counter({"n2": looks} if looks else {})
    assert list(lost_nodes([ALIVE, answer], silent, progress)) == lost


def test_when_no_node_answers_none_is_called_lost():
    answers = [NodeState("n1", fault=Fault(FaultKind.UNREACHABLE)), SILENT]
    assert lost_nodes(answers, Counter({"n1": 9, "n2": 9}), NO_STEP_YET) == {}


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """A watch whose nodes answer what `watch.answers` says, at once and every time."""
    monkeypatch.setattr(follower, "LOOK_EVERY_S", 0)
    attempt = create_run(tmp_path, "smoke").new_attempt()
    watch = NodeWatch(attempt, RECORD, lambda: watch.answers)
    watch.attempt = attempt
    watch.answers = [ALIVE, NodeState("n2", processes=3)]
    return watch


def looked(watch, answers):
    """Have the watch ask once and take in the answer."""
    watch.answers = answers
    for _ in range(3):
        watch.update(NO_STEP_YET)
        limit = time.monotonic() + 10
        while watch._answers and not watch._answers.done() and time.monotonic() < limit:
            time.sleep(0.01)


def test_exit_codes_on_disk_are_the_end(watch):
    watch.attempt.node_exit("n1").write_text("0\n")
    watch.update(NO_STEP_YET)
    assert (watch.states, watch.ended) == ([NodeState("n1", 0), NodeState("n2")], False)
    watch.attempt.node_exit("n2").write_text("1\n")
    watch.update(NO_STEP_YET)
    assert (watch.states, watch.ended) == ([NodeState("n1", 0), NodeState("n2", 1)], True)


def test_an_exit_code_that_only_its_node_sees_yet_counts(watch):
    looked(watch, [NodeState("n1", exit_code=0, processes=0), ENDED])
    assert (watch.ended, watch.lost) == (True, {})


def test_a_failed_node_is_a_culprit_after_the_others_had_time_to_follow(watch, monkeypatch):
    watch.attempt.node_exit("n1").write_text("1\n")
    watch.update(NO_STEP_YET)
    assert watch.culprits == []
    monkeypatch.setattr(follower, "FAREWELL_S", -1)
    assert watch.culprits == ["n1"]


def test_a_vanished_node_is_a_culprit_at_once(watch):
    looked(watch, [ALIVE, GONE])
    assert watch.culprits == ["n2"]


def test_a_node_that_is_silent_while_others_fail_is_what_they_fail_of(watch, monkeypatch):
    monkeypatch.setattr(follower, "FAREWELL_S", -1)
    watch.attempt.node_exit("n1").write_text("1\n")
    watch.answers = [NodeState("n1", exit_code=1, processes=0), SILENT]
    watch.update(NO_STEP_YET)
    assert watch.culprits == ["n1"]
    watch.find_lost()
    assert watch.culprits == ["n2"]
    assert watch.lost == {"n2": "the node does not answer (unreachable: no route)"}


def test_when_no_node_answers_for_long_this_machine_is_cut_off_and_the_run_may_go_on(
    watch, monkeypatch
):
    monkeypatch.setattr(follower, "LOOKS_UNTIL_ALONE", 0)
    with pytest.raises(SoractlError, match="the run may well go on") as caught:
        looked(watch, [NodeState("n1", fault=Fault(FaultKind.UNREACHABLE)), SILENT])
    assert caught.value.exit_code == 4
