from dataclasses import replace

import pytest

from soractl.errors import INTERRUPTED, Fault, FaultKind
from soractl.runs.lost_nodes import lost_nodes, silence_limit_s, silent_while_others_fail
from soractl.runs.node_states import NodeState
from soractl.runs.progress import Progress

ALIVE = NodeState("n1", processes=5)
FAILED = NodeState("n1", exit_code=1, processes=0)
GONE = NodeState("n2", processes=0)
ENDED = NodeState("n2", exit_code=0, processes=0)
HIDDEN = NodeState("n2", processes=None, owner="ana")
SILENT = NodeState("n2", fault=Fault(FaultKind.UNREACHABLE, "no route"))
STOPPED_ASKING = NodeState("n2", fault=INTERRUPTED)
BOTH_SILENT = NodeState("n1", fault=Fault(FaultKind.UNREACHABLE))


@pytest.mark.parametrize(
    ("first", "second", "silent_s", "without_step_s", "lost"),
    [
        (ALIVE, GONE, 0, 0, ["n2"]),
        (ALIVE, ENDED, 0, 0, []),
        (ALIVE, HIDDEN, 99, 99, []),  # unknown is not absent
        (ALIVE, SILENT, 44, 44, []),
        (ALIVE, SILENT, 61, 61, ["n2"]),
        (ALIVE, SILENT, 999, 5, []),  # a synchronous step needs every node
        (ALIVE, SILENT, 5, 999, []),
        (BOTH_SILENT, SILENT, 999, 999, []),  # more likely this machine is cut off
        (FAILED, SILENT, 0, 0, ["n2"]),
        (FAILED, STOPPED_ASKING, 0, 0, []),
    ],
)
def test_one_rule_says_which_nodes_are_lost(first, second, silent_s, without_step_s, lost):
    found = lost_nodes([first, second], {"n2": silent_s}, without_step_s, 60)
    assert list(found) == lost


@pytest.mark.parametrize(
    ("first", "third", "lost"),
    [
        (FAILED, SILENT, ["n2", "n3"]),  # two are off at once
        (FAILED, ENDED, ["n2"]),
        (ALIVE, SILENT, []),
        (BOTH_SILENT, SILENT, []),
        (FAILED, STOPPED_ASKING, []),
        (FAILED, HIDDEN, []),
    ],
)
def test_of_several_silent_nodes_all_are_lost_once_those_that_answer_have_ended(first, third, lost):
    states = [first, SILENT, replace(third, node="n3")]
    assert list(lost_nodes(states, {}, 0, 60)) == lost


@pytest.mark.parametrize(
    ("second", "lost"),
    [(GONE, ["n2"]), (SILENT, ["n2"]), (ENDED, []), (HIDDEN, []), (STOPPED_ASKING, [])],
)
def test_once_a_node_has_failed_who_does_not_answer_is_why(second, lost):
    assert list(silent_while_others_fail([FAILED, second])) == lost


@pytest.mark.parametrize(
    ("s_per_step", "limit_s"), [(None, 60), (2.0, 60), (30.0, 300), (90.0, 600)]
)
def test_the_silence_that_is_borne_follows_the_steps_up_to_a_collectives_timeout(
    s_per_step, limit_s
):
    assert silence_limit_s(Progress(s_per_step=s_per_step), 600) == limit_s
