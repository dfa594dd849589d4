import json

import pytest

from soractl.monitor.run_view import MOST_POINTS, marks_of, slowest_ranks, view_of
from trainer.run_dir import create_run


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path, "stage2")


def write(run, rows):
    run.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def row(step, slowest=3, seconds=2.0):
    return {
        "global_step": step,
        "attempt": 1,
        "time_unix_s": 100.0 + step,
        "loss": 1 / step,
        "s_per_step": seconds,
        "ranks/slowest": slowest,
        "ranks/slowest_s": 2.0,
        "ranks/mean_s": 1.5,
    }


def test_loss_and_times_of_steps_within_the_span(run):
    write(run, [row(step) for step in (10, 20, 30)])
    view = view_of(run, 115, 125)
    assert (view["name"], view["unix_s"], view["step"]) == (run.name, [120.0], [20])
    assert (view["loss"], view["s_per_step"], view["slowest_s"]) == ([0.05], [2.0], [2.0])


def test_many_steps_are_thinned_and_the_longest_of_neighbours_stays(run):
    write(run, [row(step, seconds=9.0 if step == 1777 else 2.0) for step in range(1, 4000)])
    view = view_of(run, 0, 1e9)
    assert len(view["step"]) <= MOST_POINTS
    assert max(view["s_per_step"]) == 9.0
    assert view["step"][view["s_per_step"].index(9.0)] == 1777


def test_a_loss_that_is_no_number_is_unknown_since_json_has_none_for_it(run):
    rows = [{**row(1), "loss": float("nan")}, {**row(2), "loss": float("inf")}, row(4)]
    write(run, rows)
    assert view_of(run, 0, 1e9)["loss"] == [None, None, 0.25]


def test_a_run_that_logged_nothing_has_no_points(run):
    view = view_of(run, 0, 1e9)
    assert (view["step"], view["slowest"]) == ([], [])


def test_the_slowest_ranks_have_their_share_of_the_steps():
    found = slowest_ranks([row(1), row(2), row(3, slowest=7), {"global_step": 4}], None)
    assert found == [
        {"rank": 3, "node": None, "share": 0.667, "above_s": 0.5},
        {"rank": 7, "node": None, "share": 0.333, "above_s": 0.5},
    ]


def test_the_slowest_ranks_are_those_of_the_newest_attempt_where_it_ran(run):
    for number, names in ((1, ("n1", "n2")), (2, ("n2", "n9"))):
        nodes = [{"name": n, "user": None, "port": None, "slots": None, "ranks": 4} for n in names]
        plan = {"run_id": "r", "nodes": nodes, "ssh": {}, "started_unix_s": 1.0}
        run.attempt(number).plan.parent.mkdir(parents=True, exist_ok=True)
        run.attempt(number).plan.write_text(json.dumps(plan))
    write(run, [row(1, slowest=6), row(2, slowest=6), {**row(3, slowest=1), "attempt": 2}])
    view = view_of(run, 0, 1e9)
    assert (view["slowest"], view["slowest_of"]) == (
        [{"rank": 1, "node": "n2", "share": 1.0, "above_s": 0.5}],
        1,
    )
    before = view_of(run, 0, 102.5)
    assert [(one["rank"], one["node"]) for one in before["slowest"]] == [(6, "n2")]
    assert before["slowest_of"] == 1 + 1


def test_marks_are_starts_saves_interruptions_and_quarantine(run):
    events = [
        {"time_unix_s": 1.0, "kind": "started", "by": "launch", "attempt": 1},
        {"time_unix_s": 2.0, "kind": "saved", "by": "trainer", "step": 100},
        {"time_unix_s": 3.0, "kind": "suspect", "by": "supervisor"},
        {"time_unix_s": 4.0, "kind": "lost", "by": "supervisor", "node": "n2", "text": "silent"},
        {"time_unix_s": 5.0, "kind": "quarantined", "by": "supervisor", "node": "n2"},
        {"time_unix_s": 99.0, "kind": "ended", "by": "supervisor"},
    ]
    run.events.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    assert marks_of(run, 0, 50) == [
        {"unix_s": 1.0, "kind": "attempt", "text": "started attempt 1"},
        {"unix_s": 2.0, "kind": "save", "text": "saved at step 100"},
        {"unix_s": 4.0, "kind": "interruption", "text": "lost n2: silent"},
        {"unix_s": 5.0, "kind": "quarantine", "text": "quarantined n2"},
    ]
