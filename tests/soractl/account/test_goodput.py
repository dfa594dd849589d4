import json
from dataclasses import replace
from itertools import pairwise

import pytest

from soractl.account.goodput import CauseRow, Part, account
from soractl.account.report import figures
from soractl.remote.nodes import Node
from soractl.remote.ssh_command import SshOptions
from soractl.runs.events import EventKind
from soractl.runs.post_mortem import Failure, Outcome
from soractl.runs.record import node_as_json
from trainer.atomic_files import append_jsonl, read_json, write_json
from trainer.run_dir import create_run

T0 = 1_000_000.0


def event(run, attempt, kind, at_s, **more):
    """An event at a time of the test's own."""
    values = {
        "kind": kind,
        "by": "supervisor",
        "attempt": attempt,
        "time_unix_s": T0 + at_s,
        **more,
    }
    append_jsonl(run.events, [values])


def make_attempt(run, begin_s, start=None, ranks=6):
    attempt = run.new_attempt()
    point = {"kind": "resume" if start else "fresh", "path": start}
    plan = {"started_unix_s": T0 + begin_s, "world_size": ranks, "start": point}
    write_json(attempt.plan, plan)
    write_json(attempt.config_json, {"trainer": {"collective_timeout_s": 600.0}})
    return attempt


def steps(run, attempt, steps, first_s, each_s=2.0, file=None):
    """Rows of logged steps, the first of which ended at `first_s`."""
    rows = [
        {"global_step": s, "attempt": attempt, "s_per_step": each_s, "loss": 1.0,
         "time_unix_s": T0 + first_s + i * each_s}
        for i, s in enumerate(steps)
    ]  # fmt: skip
    append_jsonl(file or run.metrics, rows)


@pytest.fixture
def run(tmp_path):
    """Two attempts: 40 steps from 20 s on, hung at 100 s; resumed from step 30; ended at 260 s."""
    run = create_run(tmp_path, "smoke")
    first = make_attempt(run, 0.0)
    steps(run, 1, range(1, 31), 22.0)
    event(run, 1, EventKind.HUNG, 130.0, text="no step for 30 s")
    event(run, 1, EventKind.EVIDENCE, 138.0)
    event(run, 1, EventKind.KILLED, 142.0)
    failure = Failure("n2", "no step for 30 s")
    write_json(first.exit, Outcome(1, T0 + 142.0, failure).as_json())
    cause = {"kind": "hardware", "name": "a GPU fell off the bus (Xid 79)"}
    write_json(first.decision, {"cause": cause})
    second = make_attempt(run, 145.0, start="/runs/x/checkpoints/epoch0-global_step30")
    steps(run, 1, range(31, 41), 82.0, file=second.superseded_metrics)
    steps(run, 2, range(31, 61), 172.0)
    write_json(second.exit, Outcome(0, T0 + 260.0, None).as_json())
    return run


def test_the_parts_add_up_to_the_wall_time(run):
    found = account(run)
    assert found.wall_s == 260.0
    assert sum(found.seconds.values()) == pytest.approx(found.wall_s)
    ends = [(one.begin_unix_s, one.end_unix_s) for one in found.segments]
    assert all(a[1] == b[0] for a, b in pairwise(ends))


def test_each_second_belongs_where_it_went(run):
    assert {part: s for part, s in account(run).seconds.items() if s} == {
        Part.STARTING: 20.0 + 25.0,
        Part.FIRST_STEP: 2.0 + 2.0,
        Part.TRAINING: 58.0 + 58.0,
        Part.LOST: 20.0,
        Part.DETECTING: 30.0,
        Part.EVIDENCE: 8.0,
        Part.KILLING: 4.0,
        Part.WAITING: 3.0,
        Part.ENDING: 30.0,
    }


def test_the_figures_are_those_of_the_field(run):
    found = account(run, price_per_gpu_hour=3.0)
    [one] = found.interruptions
    assert (one.state, one.cause, one.node, one.step, one.lost_steps) == (
        "hung", "hardware", "n2", 40, 10,
    )  # fmt: skip
    assert (one.detected_s, one.repaired_s, one.lost_s) == (30.0, 72.0, 20.0)
    assert found.ettr == pytest.approx(116 / 260)
    assert (found.mtti_s, found.mttr_s, found.rpo_s) == (260.0, 72.0, 20.0)
    assert found.gpu_hours == pytest.approx(6 * 260 / 3600)
    assert found.cost(found.gpu_hours) == pytest.approx(1.3)


def test_the_collective_timeout_alone_would_have_taken_longer_to_end_a_hang(run):
    assert account(run).timeout_alone_s == 570.0


def test_interruptions_are_counted_by_cause_with_what_they_cost(run):
    [row] = account(run).causes
    assert row == CauseRow("a GPU fell off the bus (Xid 79)", "hardware", 1, 1.0, 72.0 + 20.0)


def test_an_unsupervised_attempts_cause_is_read_off_its_disk(run):
    attempt = run.attempts()[0]
    attempt.decision.unlink()
    plan = read_json(attempt.plan)
    node = {**node_as_json(Node("n2")), "ranks": 6}
    more = {"run_id": str(run.path), "nodes": [node], "ssh": vars(SshOptions())}
    write_json(attempt.plan, {**plan, **more})
    account_of_rank = {"rank": 0, "error": "ValueError: no", "time_unix_s": T0, "remedy": None}
    trace = 'File "/x/trainer/step.py", line 8, in run'
    write_json(attempt.rank_failure(0), {**account_of_rank, "traceback": trace})
    [one] = account(run).interruptions
    assert (one.cause, one.name) == ("program", "an exception in trainer/step.py:8 run")


def test_energy_is_unknown_where_nothing_recorded_power(run):
    assert account(run).energy_kwh is None
    assert ("energy of the GPUs", "not known") in figures(account(run))
    measured = replace(account(run), energy_kwh=31.25)
    assert ("energy of the GPUs", "31.2 kWh") in figures(measured)


def test_what_a_save_adds_to_the_next_step_is_its_cost(tmp_path):
    run = create_run(tmp_path, "smoke")
    attempt = make_attempt(run, 0.0)
    steps(run, 1, range(1, 11), 12.0)
    steps(run, 1, range(11, 20), 37.0)  # seven seconds after step 10 instead of two
    event(run, 1, EventKind.SAVE_BEGUN, 30.5, step=10)
    write_json(attempt.exit, Outcome(0, T0 + 53.0, None).as_json())
    seconds = account(run).seconds
    assert (seconds[Part.SAVING], seconds[Part.TRAINING]) == (5.0, 36.0)


def test_a_run_that_goes_on_is_accounted_to_its_last_sign(tmp_path):
    run = create_run(tmp_path, "smoke")
    make_attempt(run, 0.0)
    steps(run, 1, range(1, 6), 12.0)
    found = account(run)
    assert (found.wall_s, found.interruptions) == (20.0, ())


def test_a_start_that_failed_and_a_wait_for_a_person_are_no_training(tmp_path):
    run = create_run(tmp_path, "smoke")
    first = make_attempt(run, 0.0)
    write_json(first.exit, Outcome(1, T0 + 50.0, Failure("n1", "ValueError")).as_json())
    second = make_attempt(run, 400.0)
    write_json(second.exit, Outcome(143, T0 + 410.0, Failure("n1", "TERM", stopped=True)).as_json())
    found = account(run)
    assert {part: s for part, s in found.seconds.items() if s} == {
        Part.STARTING: 60.0,
        Part.WAITING: 350.0,
    }
    assert [(one.state, one.cause) for one in found.interruptions] == [
        ("crashed", "unknown"),
        ("stopped", "operator"),
    ]


def test_times_of_two_machines_out_of_order_still_add_up(run):
    event(run, 2, EventKind.CRASHED, -500.0)
    found = account(run)
    assert sum(found.seconds.values()) == pytest.approx(found.wall_s)
    assert all(one.seconds > 0 for one in found.segments)


def test_a_run_that_never_started_has_no_account(tmp_path):
    assert account(create_run(tmp_path, "smoke")) is None


@pytest.mark.parametrize("odd", [None, "soon", float("nan"), float("inf"), 1e300, -1.0, True, []])
def test_an_attempt_that_does_not_say_when_it_began_takes_no_part(run, odd):
    plan = read_json(run.attempts()[1].plan)
    expected = account(run)
    write_json(run.new_attempt().plan, {**plan, "started_unix_s": odd})
    run.new_attempt().plan.write_text("{}")
    found = account(run)
    assert (found.segments, found.restarts) == (expected.segments, expected.restarts)


def test_a_run_whose_only_plan_is_damaged_has_no_account(tmp_path):
    run = create_run(tmp_path, "smoke")
    run.new_attempt().plan.write_text("{")
    assert account(run) is None


@pytest.mark.parametrize("start", [None, [], {"kind": "resume", "path": None}, {}])
def test_an_attempt_that_does_not_say_where_it_went_on_loses_no_steps(run, start):
    second = run.attempts()[1]
    write_json(second.plan, {**read_json(second.plan), "start": start})
    seconds = account(run).seconds
    assert (seconds[Part.LOST], seconds[Part.TRAINING]) == (0.0, 136.0)


@pytest.mark.parametrize("odd", [[], "x", {"trainer": []}, {"trainer": {}}, None])
def test_odd_settings_and_decisions_are_as_none(run, odd):
    [first, second] = run.attempts()
    second.config_json.write_text(json.dumps(odd))
    first.decision.write_text(json.dumps({"cause": odd}))
    found = account(run)
    assert (found.collective_timeout_s, found.interruptions[0].cause) == (600.0, "unknown")


def test_a_timeout_that_is_no_number_is_the_usual_one(run):
    write_json(run.attempts()[1].config_json, {"trainer": {"collective_timeout_s": "long"}})
    assert account(run).collective_timeout_s == 600.0


@pytest.mark.parametrize("by", ["follow", "supervisor", "slurm"])
def test_a_lost_node_is_the_state_whoever_noted_it(tmp_path, by):
    run = create_run(tmp_path, "smoke")
    attempt = make_attempt(run, 0.0)
    steps(run, 1, range(1, 4), 22.0)
    event(run, 1, EventKind.LOST, 60.0, by=by, node="n2", text="Not responding")
    failure = Failure("n2", "Not responding", lost=("n2",))
    write_json(attempt.exit, Outcome(1, T0 + 61.0, failure).as_json())
    [one] = account(run).interruptions
    assert (one.state, one.node) == ("lost", "n2")
