import json

import pytest

from soractl.monitor.energy import Energy, energy_between, energy_of
from soractl.monitor.sample import Values
from soractl.monitor.store import Store
from trainer.run_dir import create_run

NOON = 1_796_040_000


def node(power):
    return Values(node={}, gpus={i: {"power_w": power} for i in range(2)})


@pytest.fixture
def folder(tmp_path):
    """An hour of two nodes of two GPUs, 500 W each; n2 is missing for half an hour."""
    kept = Store(tmp_path / "store")
    for minute in range(60):
        found = {"n1": node(500.0)}
        if minute < 30:
            found["n2"] = node(500.0)
        kept.add(NOON + 60 * minute, found)
    kept.close_minutes(NOON + 3600)
    kept.close()
    return tmp_path / "store"


@pytest.fixture
def run(tmp_path):
    """A run of both nodes, which goes on with n1 alone after half an hour."""
    run = create_run(tmp_path / "runs", "stage2")
    for names, begin in ((["n1", "n2"], NOON), (["n1"], NOON + 1800)):
        attempt = run.new_attempt()
        nodes = [
            {"name": name, "user": None, "port": None, "slots": 2, "ranks": 2} for name in names
        ]
        plan = {"run_id": "7", "nodes": nodes, "ssh": {}, "started_unix_s": begin}
        attempt.plan.write_text(json.dumps(plan))
    return run


def test_a_kilowatt_for_an_hour_is_a_kilowatt_hour(folder):
    kwh, known_s = energy_between(folder, ["n1"], NOON, NOON + 3600)
    assert (round(kwh, 6), known_s) == (1.0, 3600.0)


def test_parts_of_a_minute_count_by_their_share(folder):
    kwh, known_s = energy_between(folder, ["n1"], NOON + 90, NOON + 150)
    assert (round(kwh * 3600, 3), known_s) == (60.0, 60.0)


def test_what_is_missing_is_in_no_sum_and_is_declared(folder):
    kwh, known_s = energy_between(folder, ["n1", "n2"], NOON, NOON + 3600)
    assert (round(kwh, 6), known_s) == (1.5, 5400.0)
    assert Energy(kwh, known_s, 7200.0).known == 0.75


def test_each_attempt_counts_its_own_nodes(folder, run):
    found = energy_of(run, NOON, NOON + 3600, 0.3, folder)
    assert (round(found.kwh, 6), found.known, round(found.cost, 6)) == (1.5, 1.0, 0.45)
    assert found.as_json() == {
        "energy_kwh": found.kwh,
        "energy_known": 1.0,
        "energy_cost": found.cost,
    }


def test_without_a_store_nothing_is_known(tmp_path, run):
    assert energy_of(run, NOON, NOON + 3600, None, tmp_path / "nothing") is None


def test_an_attempt_of_a_later_time_ends_nothing_before_and_asks_for_nothing_after(folder, run):
    expected = energy_of(run, NOON, NOON + 3600, None, folder)
    values = json.loads(run.attempts()[1].plan.read_text())
    run.new_attempt().plan.write_text(json.dumps({**values, "started_unix_s": 9e10}))
    assert energy_of(run, NOON, NOON + 3600, None, folder) == expected
    (folder_of_third,) = run.attempts()[2:]
    folder_of_third.plan.write_text(json.dumps({**values, "started_unix_s": 1e300}))
    assert energy_of(run, NOON, NOON + 3600, None, folder) is None
