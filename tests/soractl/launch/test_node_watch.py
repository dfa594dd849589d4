import time

import pytest

from soractl.errors import Fault, FaultKind, SoractlError
from soractl.launch.node_watch import NodeWatch, Timing
from soractl.remote.nodes import Node
from soractl.remote.ssh_command import SshOptions
from soractl.runs.node_states import NodeState
from soractl.runs.progress import Progress
from soractl.runs.record import AttemptRecord
from trainer.run_dir import create_run

NODES = (Node("n1"), Node("n2"))
RECORD = AttemptRecord("/runs/001-x", NODES, (2, 2), SshOptions(), 0.0)
NO_STEP_YET = Progress(elapsed_s=1)
ALIVE = NodeState("n1", processes=5)
GONE = NodeState("n2", processes=0)
ENDED = NodeState("n2", exit_code=0, processes=0)
SILENT = NodeState("n2", fault=Fault(FaultKind.UNREACHABLE, "no route"))


@pytest.fixture
def watch_with(tmp_path):
    """A watch whose nodes answer `watch.answers`, at once and every time."""
    attempt = create_run(tmp_path, "smoke").new_attempt()

    def make(**times):
        watch = NodeWatch(
            attempt, RECORD, lambda: watch.answers, Timing(**{"look_every_s": 0, **times})
        )
        watch.attempt = attempt
        watch.answers = [ALIVE, NodeState("n2", processes=3)]
        return watch

    return make


@pytest.fixture
def watch(watch_with):
    return watch_with()


def looked(watch, answers, progress=NO_STEP_YET):
    """Have the watch ask once and take in the answer."""
    watch.answers = answers
    for _ in range(3):
        watch.update(progress)
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


def test_a_failed_node_is_named_after_the_others_had_time_to_follow(watch_with):
    patient, impatient = watch_with(), watch_with(peer_exit_grace_s=-1)
    patient.attempt.node_exit("n1").write_text("1\n")
    patient.update(NO_STEP_YET)
    impatient.update(NO_STEP_YET)
    assert (patient.failed_nodes, impatient.failed_nodes) == ([], ["n1"])


def test_a_vanished_node_is_named_at_once(watch):
    looked(watch, [ALIVE, GONE])
    assert watch.failed_nodes == ["n2"]


def test_a_node_that_is_silent_while_others_fail_is_why_they_fail(watch_with):
    watch = watch_with(peer_exit_grace_s=-1, look_every_s=60)
    watch.attempt.node_exit("n1").write_text("1\n")
    watch.answers = [NodeState("n1", exit_code=1, processes=0), SILENT]
    watch.update(NO_STEP_YET)
    assert watch.failed_nodes == ["n1"]
    watch.confirm()
    assert watch.failed_nodes == ["n2"]
    assert watch.lost == {"n2": "the node does not answer (unreachable: no route)"}


def test_a_silent_node_is_not_lost_while_steps_are_finished(watch_with):
    watch = watch_with(min_silence_s=0)
    looked(watch, [ALIVE, SILENT], Progress(global_step=3, heartbeat_age_s=0))
    assert watch.lost == {}
    looked(watch, [ALIVE, SILENT], Progress(global_step=3, heartbeat_age_s=9))
    assert list(watch.lost) == ["n2"]


def test_when_no_node_answers_for_long_this_machine_is_cut_off_and_the_run_may_go_on(watch_with):
    watch = watch_with(cut_off_s=-1)
    with pytest.raises(SoractlError, match="the run may well go on") as caught:
        looked(watch, [NodeState("n1", fault=Fault(FaultKind.UNREACHABLE)), SILENT])
    assert caught.value.exit_code == 4
