import pytest

from soractl.runs.events import Event
from tests.night.faults import FAULTS
from tests.night.night import RIGHT, UNKNOWN, WRONG, judge, misses

BY_NAME = {fault.name: fault for fault in FAULTS}
KILLED, LOST_PACKETS = BY_NAME["SIGKILL of a rank"], BY_NAME["packets lost for 60 s"]
DAMAGED = BY_NAME["newest checkpoint damaged"]


def events_of(*kinds_and_nodes):
    return [
        Event(time_unix_s=0.0, kind=kind, by="supervisor", node=node)
        for kind, node in kinds_and_nodes
    ]


def explained(attempt, cause, node, certainty="sure"):
    root = None if certainty == "unknown" else {"node": node, "text": "rank 1: killed by SIGKILL"}
    return {
        "attempt": attempt,
        "explanation": {"cause": cause, "certainty": certainty, "root": root},
    }


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (explained(3, "a rank was killed", "n2"), RIGHT),
        (explained(3, "nothing names a cause", None, "unknown"), UNKNOWN),
        (explained(3, "a rank was killed", "n3"), WRONG),
        (explained(2, "a rank was killed", "n2"), WRONG),
        (explained(3, "a disk is full", "n2"), WRONG),
        ({"attempt": 3, "explanation": None}, WRONG),
    ],
)
def test_why_is_right_only_by_attempt_node_and_cause(found, verdict):
    if verdict is WRONG and found["explanation"] and "disk" in found["explanation"]["cause"]:
        found["explanation"]["root"]["text"] = "no room"
    assert judge(KILLED, 2, 3, found)[0] == verdict


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ({"attempt": 3, "explanation": None}, RIGHT),
        (explained(2, "a rank was killed", "n2"), RIGHT),
        (explained(3, "a rank was killed", "n2"), WRONG),
    ],
)
def test_of_an_attempt_that_goes_on_nothing_is_reported(found, verdict):
    assert judge(LOST_PACKETS, 2, 3, found)[0] == verdict


def test_events_must_tell_what_was_done_and_name_the_node():
    acted = ("crashed", "n2"), ("killed", None), ("restarted", None)
    assert misses(KILLED, 2, events_of(("saved", None), *acted)) == []
    assert misses(KILLED, 3, events_of(*acted)) == ["no event `crashed` names n3"]
    assert misses(KILLED, 2, events_of(*acted, *acted)) != []
    assert misses(DAMAGED, 2, events_of(*acted, *acted)) == []


def test_events_must_not_tell_of_actions_where_none_is_due():
    suspect = ("suspect", "n2"), ("recovered", None)
    assert misses(LOST_PACKETS, 2, events_of(*suspect)) == []
    assert misses(LOST_PACKETS, 2, events_of(*suspect, ("lost", "n2"), ("killed", None))) != []
