import os
import time
from dataclasses import replace

import pytest

from soractl.supervise import lease
from soractl.supervise.lease import Holder
from soractl.supervise.quarantine import Book, Quarantined, Strike
from soractl.supervise.report import (
    nodes_lines,
    stopped_json,
    stopped_lines,
    supervisor_json,
    supervisor_rows,
)
from soractl.supervise.stop import Stopped
from trainer.atomic_files import write_json
from trainer.run_dir import create_run


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path, "smoke")


def held(run, ago_s=3.0, **values):
    """A lease whose last beat is so many seconds old."""
    holder = Holder(
        **{"token": "t", "beat": 3, "host": "n0", "pid": 47, "state": "training"} | values
    )
    write_json(run.supervisor, holder.as_json())
    then = time.time() - ago_s
    os.utime(run.supervisor, (then, then))
    return supervisor_rows(run)


def test_status_shows_who_supervises_when_it_looked_and_what_it_saw(run):
    assert (supervisor_rows(run), supervisor_json(run)) == ([], None)
    assert held(run) == [("supervisor", "acting on n0 (process 47), 3 s ago: training")]
    found = supervisor_json(run)
    assert (found["alive"], found["state"], found["age_s"]) == (
        True,
        "training",
        pytest.approx(3, abs=1),
    )
    assert held(run, watch_only=True)[0][1].startswith("watching only on n0")


def test_status_shows_a_supervisor_that_has_left_or_gives_no_sign_of_life(run):
    left = held(run, ended=True, state="given up", reason="why")
    assert left == [("supervisor", "has left, given up: why")]
    assert supervisor_json(run)["alive"] is False
    assert held(run, ago_s=120.0) == [
        ("supervisor", "no sign of life from n0 (process 47), the last 2 min 00 s ago, training; "
         "`soractl supervise 001-smoke` takes over")
    ]  # fmt: skip
    assert supervisor_json(run)["alive"] is False


def test_a_beat_that_nobody_can_date_leaves_its_supervisor_in_status(run, monkeypatch):
    monkeypatch.setattr(lease, "file_time", lambda folder: None)  # root may write everywhere
    assert held(run) == [("supervisor", "acting on n0 (process 47), last beat -: training")]
    found = supervisor_json(run)
    assert (found["host"], found["age_s"], found["alive"]) == ("n0", None, None)
    assert held(run, ended=True) == [("supervisor", "has left, training")]
    assert supervisor_json(run)["alive"] is False


def test_a_stop_says_what_is_left(tmp_path):
    run = create_run(tmp_path, "smoke")
    done = Stopped(run, 6, (), "epoch0-global_step7")
    assert stopped_lines(done) == [
        "001-smoke: 6 ranks saved and left; resumes from epoch0-global_step7"
    ]
    stuck = Stopped(run, 6, (("n2", 3),))
    assert stopped_lines(stuck) == [
        "001-smoke: 6 ranks asked to save and leave; still there: 3 processes on n2",
        "`soractl kill 001-smoke` ends them",
    ]
    assert (done.exit_code, stuck.exit_code) == (0, 124)


def test_a_stop_names_the_nodes_of_which_it_is_not_known_what_is_left(tmp_path):
    run = create_run(tmp_path, "smoke")
    unsure = Stopped(run, 6, silent=("n1", "n2"))
    assert stopped_lines(unsure) == [
        "001-smoke: 6 ranks saved and left",
        "n[1-2] gave no answer; what is left there is not known",
    ]
    assert stopped_json(unsure)["silent"] == ["n1", "n2"]
    # A job that has left closes its nodes to logins.
    assert (unsure.exit_code, replace(unsure, by_queue=True).exit_code) == (4, 0)


def test_nodes_shows_the_quarantined_and_those_with_strikes():
    now = time.time()
    strikes = tuple(Strike("n3", now, "001-smoke", i, "lost") for i in (1, 2))
    apart = {
        "n2": Quarantined("n2", "2 strikes within a day", now, now + 60, "attempts/2/evidence")
    }
    [table] = nodes_lines(Book(strikes, apart))
    rows = [line.split() for line in table.lines(200)]
    assert [row[:2] for row in rows[1:]] == [["n2", "quarantined"], ["n3", "2"]]
    assert "2 strikes within a day" in table.lines(200)[1]
    assert nodes_lines(Book()) == ["no node is set apart, and none has a strike"]
