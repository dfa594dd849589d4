"""The rule by which a node of an attempt counts as lost; `status` and the follower share it.

A node is lost when it answers and no process of the run is left on it, though nothing says how it
ended; or when it does not answer and

- another node has failed, and all were asked once more (`silent_while_others_fail`); or
- a node has ended, and so have all that answer: nobody is left whom it could train with; or
- it has been silent for `limit_s` seconds, no step was finished in as long, and another node does
  answer. To lose sight of a node is not to lose it: a finished step proves every node alive, since
  training is synchronous.
"""

from collections.abc import Mapping, Sequence

from soractl.errors import INTERRUPTED
from soractl.remote.nodes import Node, address
from soractl.runs.node_states import NodeState
from soractl.runs.progress import Progress
from soractl.terminal.hints import to_type

MIN_SILENCE_S = 60.0  # packets may stay away for as long without harm to the training
SILENCE_STEPS = 10
VANISHED = (
    "no process of the run is left, and nothing says why: all were killed, "
    "or the node was restarted"
)


def silence_limit_s(
    progress: Progress, collective_timeout_s: float, least_s: float = MIN_SILENCE_S
) -> float:
    """Seconds of silence after which a node is lost: some steps, at most a collective's timeout."""
    steps_s = SILENCE_STEPS * (progress.s_per_step or 0)
    return min(max(least_s, steps_s), max(least_s, collective_timeout_s))


def lost_nodes(
    states: Sequence[NodeState],
    silent_s: Mapping[str, float],
    without_step_s: float,
    limit_s: float,
) -> dict[str, str]:
    """Lost nodes and why they count as lost; `silent_s` says how long each has not answered."""
    lost = {state.node: VANISHED for state in states if state.vanished}
    for state in states:
        others = [other for other in states if other is not state]
        if not _is_silent(state):
            continue
        overdue = min(silent_s.get(state.node, 0.0), without_step_s) > limit_s
        answered = any(other.fault is None for other in others)
        over = any(one.ended for one in others) and all(
            one.ended or _is_silent(one) for one in others
        )
        if over or (overdue and answered):
            lost[state.node] = _silence(state)
    return lost


def silent_while_others_fail(states: Sequence[NodeState]) -> dict[str, str]:
    """Lost nodes once another has failed: who does not answer then is why."""
    lost = {}
    for state in states:
        if state.vanished:
            lost[state.node] = VANISHED
        elif _is_silent(state):
            lost[state.node] = _silence(state)
    return lost


def resume_on(run: str, left: Sequence[Node]) -> str:
    """The command that resumes a run on the nodes that are left.

    >>> resume_on("007-stage2", [Node("n1"), Node("n3", user="ana", port=2222)])
    'soractl resume 007-stage2 --hostfile n1,ana@n3:2222'
    """
    nodes = ",".join(map(address, left)) + ("," if len(left) == 1 else "")
    return to_type("resume", run, "--hostfile", nodes)


def _is_silent(state: NodeState) -> bool:
    """It was asked, gave no answer, and left no word of its end."""
    return state.fault is not None and state.fault != INTERRUPTED and not state.ended


def _silence(state: NodeState) -> str:
    """Reason of a failure: the node does not answer."""
    return f"the node does not answer ({state.fault})"
