from soractl.queue.interface import QueueEntry
from tests.soractl.queue.second_queue import Entry


def test_an_entry_waits_or_is_active_by_its_phase():
    entries = {state: Entry(7, state) for state in ("Q", "R", "E", "S", "F")}
    assert {state: one.is_waiting for state, one in entries.items()} == {
        **dict.fromkeys("REFS", False),
        "Q": True,
    }
    assert {state: one.is_active for state, one in entries.items()} == {
        **dict.fromkeys("RES", True),
        **dict.fromkeys("QF", False),
    }


def test_an_entry_has_its_words_from_what_its_queue_knows():
    entry: QueueEntry = Entry(7, "Q", reason="no nodes", start="02:10")
    assert entry.in_words == "waiting as job 7: no nodes; may start at 02:10"
    assert Entry(7, "R").in_words == "r as job 7"
    assert entry.as_json() == {
        "job_id": 7,
        "state": "Q",
        "reason": "no nodes",
        "nodes": None,
        "start": "02:10",
        "reason_in_words": "no nodes",
    }
