import time

from soractl.supervise.lease import Holder
from soractl.supervise.quarantine import Book, Quarantined, Strike
from soractl.supervise.report import nodes_lines, stopped_lines, supervisor_lines
from soractl.supervise.stop import Stopped
from trainer.run_dir import create_run

HOLDER = Holder(token="t", beat=3, host="n0", pid=47, state="training")


def test_status_shows_who_supervises_and_what_it_sees():
    assert supervisor_lines(None) == []
    assert supervisor_lines(HOLDER) == ["supervisor  acting on n0 (process 47): training"]
    left = Holder(**{**HOLDER.as_json(), "ended": True, "state": "given up", "reason": "why"})
    assert supervisor_lines(left) == ["supervisor  has left, given up: why"]


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
