"""States of a supervised run: a table of what is seen, what is done and which states may follow."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """States of a supervised run."""

    STARTING = "starting"
    FIRST_STEP = "first step"
    TRAINING = "training"
    SAVING = "saving"
    VALIDATING = "validating"
    SUSPECT = "suspect"
    HUNG = "hung"
    CRASHED = "crashed"
    LOST = "lost"
    RESTARTING = "restarting"
    BLIND = "blind"
    FINISHED = "finished"
    GIVEN_UP = "given up"


@dataclass(frozen=True)
class Row:
    """One state: its sign, the supervisor's action, and the states that may follow."""

    sign: str
    action: str
    following: frozenset[State]


ALIVE = frozenset(
    (State.STARTING, State.FIRST_STEP, State.TRAINING, State.SAVING, State.VALIDATING)
)
FAILED = frozenset((State.HUNG, State.CRASHED, State.LOST))  # the only states that are acted upon
_SEEN = ALIVE | FAILED | {State.SUSPECT, State.BLIND, State.FINISHED}
_DECIDED = frozenset((State.RESTARTING, State.BLIND, State.GIVEN_UP))

TABLE = {
    State.STARTING: Row("not every node has shown its processes yet", "none", _SEEN),
    State.FIRST_STEP: Row("processes on every node, no step yet", "none", _SEEN),
    State.TRAINING: Row("steps come", "none", _SEEN),
    State.SAVING: Row("a checkpoint is due or being written", "none", _SEEN),
    State.VALIDATING: Row("the next step includes a validation", "none", _SEEN),
    State.SUSPECT: Row("a node is silent, or no step for long", "look again", _SEEN),
    State.BLIND: Row("the supervisor cannot see", "alarm; touch nothing", _SEEN | _DECIDED),
    State.HUNG: Row(
        "no step: two signs, or one for much longer",
        "evidence; kill, unless it shows that collectives go on",
        _DECIDED | ALIVE,
    ),
    State.CRASHED: Row("a rank or a launcher failed", "evidence, kill", _DECIDED),
    State.LOST: Row("a node is without its processes, or silent for long", "kill", _DECIDED),
    State.RESTARTING: Row("the next attempt is being started", "start", _SEEN | _DECIDED),
    State.FINISHED: Row("all nodes ended with 0, or a person stopped it", "leave", frozenset()),
    State.GIVEN_UP: Row("another attempt would fail as well", "leave with 93", frozenset()),
}


def may_follow(before: State, after: State) -> bool:
    """True if the table lets `after` follow `before`; a state may always stay."""
    return before is after or after in TABLE[before].following
